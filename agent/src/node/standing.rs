//! How a pod stands, and what the container runtime is told of it: a pure function.

use crate::mesh::Mesh;
use crate::sandbox::{Question, Sandbox};

/// How a sandbox's pod stands.
pub enum Standing {
    /// It is not to be in the mesh.
    Plain,
    Captured,
    /// Its object is not known.
    Unknown,
    /// Its worker is on its way up.
    Coming,
    /// It is to be in the mesh and cannot be. Why.
    Refused(String),
}

/// How a pod stands whose object is not known.
///
/// While no mesh is known, or not the pod's namespace, nobody has said whether its pods are captured: then the pod's own label
/// alone can say that it is not.
pub fn without_object(mesh: &Mesh, sandbox: &Sandbox) -> Standing {
    if sandbox.opts_in(mesh.may_capture(&sandbox.pod.namespace)) {
        Standing::Unknown
    } else {
        Standing::Plain
    }
}

/// What to answer; none while it is worth waiting.
pub fn answer(question: &Question, standing: Standing, is_late: bool) -> Option<Result<(), String>> {
    let pod = &question.sandbox().pod;
    match (question, standing) {
        // Whatever has to wait waits with its first container: until then its object may come, and others go on.
        (Question::Run(_), Standing::Coming) if !is_late => None,
        (Question::Run(_), _) | (Question::Create { .. }, Standing::Plain | Standing::Captured) => {
            Some(Ok(()))
        }
        (Question::Create { .. }, Standing::Unknown | Standing::Coming) if !is_late => None,
        (Question::Create { .. }, Standing::Unknown) => Some(Err(format!(
            "pod {pod} is to be in the mesh, and Pillion does not know its Pod object yet: its containers wait for it"
        ))),
        (Question::Create { .. }, Standing::Coming) => Some(Err(format!(
            "pod {pod} is to be in the mesh, and Pillion is about to capture it: its containers wait"
        ))),
        (Question::Create { .. }, Standing::Refused(why)) => Some(Err(format!(
            "pod {pod} is to be in the mesh, and Pillion cannot capture it, so its containers do not start: {why}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Question {
        Question::Run(Sandbox::of_test("a", "web"))
    }

    fn create() -> Question {
        Question::Create { sandbox: Sandbox::of_test("a", "web"), container: "app".into() }
    }

    // proves: CAP-2, SEC-3
    #[test]
    fn a_pod_without_a_label_waits_while_nobody_has_said_which_namespaces_are_captured() {
        let unlabelled = Sandbox::of_test("a", "web").without_label();
        let waits =
            |mesh: &Mesh, sandbox: &Sandbox| matches!(without_object(mesh, sandbox), Standing::Unknown);
        let unknown = Mesh::default();
        let of_others = Mesh { generation: 1, ..Mesh::default() };
        let captured = Mesh { generation: 1, captured_namespaces: ["shop".into()].into(), ..Mesh::default() };
        assert!(waits(&unknown, &unlabelled), "no mesh is known");
        assert!(!waits(&of_others, &unlabelled) && waits(&captured, &unlabelled));
        let knows = |plain: &str| Mesh {
            generation: 1,
            plain_namespaces: Some([plain.to_owned()].into()),
            ..Mesh::default()
        };
        assert!(waits(&knows("bank"), &unlabelled), "its namespace has not been heard of");
        assert!(!waits(&knows("shop"), &unlabelled));
        assert!(waits(&of_others, &Sandbox::of_test("a", "web")), "it has a label of its own");
    }

    #[test]
    fn a_sandbox_is_never_refused_and_waits_only_for_what_is_on_its_way() {
        assert_eq!(answer(&run(), Standing::Coming, false), None);
        for (standing, is_late) in [
            (Standing::Coming, true),
            (Standing::Unknown, false),
            (Standing::Refused("no".into()), false),
            (Standing::Captured, false),
            (Standing::Plain, false),
        ] {
            assert_eq!(answer(&run(), standing, is_late), Some(Ok(())));
        }
    }

    #[test]
    fn a_container_waits_and_is_refused_in_time_with_the_reason() {
        let refused = |standing, is_late| answer(&create(), standing, is_late).map(Result::unwrap_err);
        assert_eq!(refused(Standing::Coming, false), None);
        assert_eq!(refused(Standing::Unknown, false), None);
        for (standing, reason) in [
            (Standing::Unknown, "Pod object"),
            (Standing::Coming, "about to capture"),
            (Standing::Refused("port 15001 is taken".into()), "port 15001 is taken"),
        ] {
            let said = refused(standing, true).unwrap();
            assert!(said.starts_with("pod shop/web") && said.contains(reason), "{said}");
        }
        for standing in [Standing::Plain, Standing::Captured] {
            assert_eq!(answer(&create(), standing, true), Some(Ok(())));
        }
    }
}
