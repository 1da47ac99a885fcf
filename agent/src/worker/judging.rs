//! When the pod's open connections are judged: as often as the node core says so, and again until it has succeeded.

use super::context::Context;
use super::judge::judge;
use super::opened::Opened;
use super::{Judged, Terms};
use crate::mesh::PodName;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Judging that has failed is tried again after this long, doubling up to the bound.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Judges what is open as often as it is told to, and again and again until nothing has stood in the way of it: of a denied
/// connection that was not cut nobody would hear otherwise.
pub(super) struct Judging {
    terms: Option<Arc<Terms>>,
    retry: Option<Retry>,
    judged: watch::Sender<Judged>,
    opened: Opened,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Judging {
    pub fn new(judged: watch::Sender<Judged>) -> Self {
        Self { terms: None, retry: None, judged, opened: Opened::default() }
    }

    /// Judges under these terms, from now on.
    pub fn begin(&mut self, context: &Context, terms: Arc<Terms>) {
        self.terms = Some(terms);
        self.retry = None;
        self.again(context);
    }

    /// Tries again what has failed.
    pub fn again(&mut self, context: &Context) {
        if let Some(terms) = self.terms.clone() {
            let judged = judge(context, &terms, &mut self.opened);
            self.take(&context.name, judged);
        }
    }

    /// Resolves when what has failed is to be tried again; never where nothing has.
    pub async fn due(&self) {
        match self.retry {
            Some(retry) => sleep_until(retry.at).await,
            None => pending().await,
        }
    }

    /// `outcome` is the generation that all was judged by, or what stood in the way.
    fn take(&mut self, pod: &PodName, outcome: Result<u64, String>) {
        match outcome {
            Ok(generation) => {
                if self.retry.take().is_some() {
                    tracing::info!(%pod, "all open connections are judged by the mesh as it is now");
                }
                self.judged.send_replace(Judged { generation, failing: None });
            }
            Err(reason) => {
                let pause = self.retry.map_or(FIRST_RETRY, |retry| (retry.pause * 2).min(LONGEST_RETRY));
                self.retry = Some(Retry { at: Instant::now() + pause, pause });
                let is_new = self.judged.send_if_modified(|judged| {
                    let is_new = judged.failing.as_ref() != Some(&reason);
                    judged.failing = Some(reason.clone());
                    is_new
                });
                // What fails again and again is told once.
                if is_new {
                    tracing::error!(%pod,
                        "open connections that the mesh may allow no longer go on, until this succeeds: {reason}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: POL-2, SEC-3
    #[tokio::test]
    async fn judging_that_fails_is_tried_again_until_it_succeeds_and_says_so_meanwhile() {
        let pod = PodName { namespace: "default".into(), name: "server".into() };
        let (told, judged) = watch::channel(Judged::default());
        let mut judging = Judging::new(told);
        judging.take(&pod, Err("too many open files".to_owned()));
        let failing = Some("too many open files".to_owned());
        assert_eq!(*judged.borrow(), Judged { generation: 0, failing: failing.clone() });
        let first = judging.retry.unwrap().pause;
        judging.due().await;
        judging.take(&pod, Err("too many open files".to_owned()));
        assert_eq!(judging.retry.unwrap().pause, first * 2);
        judging.due().await;
        judging.take(&pod, Ok(7));
        assert_eq!(*judged.borrow(), Judged { generation: 7, failing: None });
        assert!(judging.retry.is_none(), "nothing is left to try");
        // What was judged once stays so, while the next judging fails.
        judging.take(&pod, Err("too many open files".to_owned()));
        assert_eq!(*judged.borrow(), Judged { generation: 7, failing });
    }
}
