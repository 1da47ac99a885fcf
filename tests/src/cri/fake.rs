//! A container runtime that is none: it says by CRI of the bed's pods what a runtime would say, or what a broken one would.

use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::messages::*;
use crate::pod::Pod;

/// gRPC's status codes.
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

/// How the runtime behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Takes connections and calls, and never answers.
    Silent,
    /// Answers every call with an error.
    Refuses,
    /// Lists its sandboxes, and answers with an error what it is asked of one.
    KnowsNoDetails,
}

/// The runtime. It ends with this value.
pub struct FakeRuntime {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    _end: oneshot::Sender<()>,
}

struct State {
    mood: Mood,
    sandboxes: Vec<Sandbox>,
    /// The ids of those whose status is never told.
    silent: BTreeSet<String>,
    /// How many calls came under this mood.
    calls: usize,
}

#[derive(Clone)]
struct Sandbox {
    id: String,
    namespace: String,
    name: String,
    uid: String,
    netns: PathBuf,
    ips: Vec<String>,
}

impl FakeRuntime {
    /// Listens at this socket, has no sandbox, and is well.
    pub fn start(socket: &Path) -> Result<Self> {
        let state = Arc::new(Mutex::new(State {
            mood: Mood::Well,
            sandboxes: Vec::new(),
            silent: BTreeSet::new(),
            calls: 0,
        }));
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?
        };
        let answers = state.clone();
        thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = listen(listener, answers) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self { socket: socket.to_owned(), state, _end: end })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has the pod as a sandbox from now on.
    pub fn add(&self, pod: &Pod) -> Result<()> {
        self.add_as(pod, &pod.uid()?)
    }

    /// The same where an API server gave the pod's object this uid.
    pub fn add_as(&self, pod: &Pod, uid: &str) -> Result<()> {
        self.add_at(pod, uid, pod.netns());
        Ok(())
    }

    /// The same with the pod's network namespace at this path.
    pub fn add_at(&self, pod: &Pod, uid: &str, netns: PathBuf) {
        let sandbox = Sandbox {
            id: id_of(uid),
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: uid.to_owned(),
            netns,
            ips: pod.addresses().iter().map(ToString::to_string).collect(),
        };
        self.state.lock().expect("no holder panics").sandboxes.push(sandbox);
    }

    /// Whether the runtime lists the pod's sandbox, and never answers what it is asked of it.
    pub fn set_silent_of(&self, pod: &Pod, is_silent: bool) -> Result<()> {
        let id = id_of(&pod.uid()?);
        let mut state = self.state.lock().expect("no holder panics");
        let _ = if is_silent { state.silent.insert(id) } else { state.silent.remove(&id) };
        Ok(())
    }

    pub fn set_mood(&self, mood: Mood) {
        let mut state = self.state.lock().expect("no holder panics");
        (state.mood, state.calls) = (mood, 0);
    }

    /// How many calls, or connections where it is silent, have come since the mood was set.
    pub fn calls(&self) -> usize {
        self.state.lock().expect("no holder panics").calls
    }
}

fn id_of(uid: &str) -> String {
    format!("{:0>64}", uid.replace('-', ""))
}

async fn listen(listener: UnixListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, state.clone()));
    }
}

async fn serve(stream: UnixStream, state: Arc<Mutex<State>>) {
    if count(&state) == Mood::Silent {
        // The connection stays open as long as the runtime is there.
        return pending().await;
    }
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, state.clone()));
    }
}

/// Counts a call; gives the mood.
fn count(state: &Mutex<State>) -> Mood {
    let mut state = state.lock().expect("no holder panics");
    state.calls += 1;
    state.mood
}

/// A client that is gone hears nothing: errors of sending are no matter.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<Mutex<State>>,
) -> Option<()> {
    let mood = count(&state);
    if mood == Mood::Silent {
        return pending().await;
    }
    let method = request.uri().path().rsplit('/').next()?.to_owned();
    let mut incoming = request.into_body();
    let mut body = BytesMut::new();
    while let Some(data) = incoming.data().await {
        body.extend_from_slice(&data.ok()?);
    }
    let (sandboxes, silent) = {
        let state = state.lock().expect("no holder panics");
        (state.sandboxes.clone(), state.silent.clone())
    };
    // A frame's head is five bytes.
    let asked = body.get(5..)?;
    if method == "PodSandboxStatus" && silent.contains(&SandboxId::decode(asked).ok()?.pod_sandbox_id) {
        return pending().await;
    }
    let said = say(mood, &method, asked, &sandboxes);
    let head = || Response::builder().header("content-type", "application/grpc");
    match said {
        Ok(message) => {
            let mut outgoing = respond.send_response(head().body(()).ok()?, false).ok()?;
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).ok()?);
            framed.put_slice(&message);
            outgoing.send_data(framed.freeze(), false).ok()?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            outgoing.send_trailers(trailers).ok()?;
        }
        Err(code) => {
            let head = head().header("grpc-status", code).header("grpc-message", "a bad day");
            respond.send_response(head.body(()).ok()?, true).ok()?;
        }
    }
    Some(())
}

/// The answer's message, or the status code of an error.
fn say(mood: Mood, method: &str, asked: &[u8], sandboxes: &[Sandbox]) -> Result<Vec<u8>, u32> {
    if mood == Mood::Refuses {
        return Err(INTERNAL);
    }
    match method {
        "Version" => {
            let version = VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into() };
            Ok(version.encode_to_vec())
        }
        "ListPodSandbox" => {
            let id = |sandbox: &Sandbox| SandboxId { pod_sandbox_id: sandbox.id.clone() };
            Ok(ListPodSandboxResponse { items: sandboxes.iter().map(id).collect() }.encode_to_vec())
        }
        "PodSandboxStatus" if mood == Mood::KnowsNoDetails => Err(INTERNAL),
        "PodSandboxStatus" => {
            let asked = SandboxId::decode(asked).map_err(|_| INTERNAL)?;
            let sandbox = sandboxes.iter().find(|sandbox| sandbox.id == asked.pod_sandbox_id);
            Ok(sandbox.ok_or(NOT_FOUND)?.status().encode_to_vec())
        }
        // The agent asks every second instead.
        _ => Err(UNIMPLEMENTED),
    }
}

impl Sandbox {
    fn status(&self) -> PodSandboxStatusResponse {
        let network = json!([{"type": "network", "path": self.netns}]);
        let info = json!({"pid": 1, "runtimeSpec": {"linux": {"namespaces": network}}});
        let more = self.ips.iter().skip(1).map(|ip| PodIp { ip: ip.clone() });
        let status = PodSandboxStatus {
            id: self.id.clone(),
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: self.namespace.clone(),
                attempt: 0,
            }),
            created_at: 1,
            network: Some(PodSandboxNetworkStatus {
                ip: self.ips.first().cloned().unwrap_or_default(),
                additional_ips: more.collect(),
            }),
        };
        PodSandboxStatusResponse {
            status: Some(status),
            info: [("info".to_owned(), info.to_string())].into(),
        }
    }
}
