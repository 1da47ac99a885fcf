//! What a container runtime tells the node, or asks it.

use super::Sandbox;
use std::time::Instant;

pub enum Call {
    /// It is there. All its sandboxes follow.
    Connected { runtime: String },
    /// What it does from now on is not told, until it is there again. Why.
    Lost(String),
    /// All sandboxes that there are, a pod's newest last.
    All(Vec<Sandbox>),
    /// A sandbox is there, and nobody waits: something may run in it already.
    Found(Sandbox),
    /// The sandbox with this id has ended.
    Gone(String),
    Asked {
        question: Question,
        /// An answer after this comes too late to be sure that the runtime still waits.
        deadline: Instant,
        answer: Answer,
    },
}

/// What the runtime waits to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A sandbox is there; nothing runs in it. It has to be answered well: a runtime that is refused here leaves the
    /// sandbox's network behind.
    Run(Sandbox),
    /// May a container be made?
    Create { sandbox: Sandbox, container: String },
}

impl Question {
    /// Whom it is about.
    pub fn sandbox(&self) -> &Sandbox {
        match self {
            Self::Run(sandbox) | Self::Create { sandbox, .. } => sandbox,
        }
    }

    pub fn sandbox_mut(&mut self) -> &mut Sandbox {
        match self {
            Self::Run(sandbox) | Self::Create { sandbox, .. } => sandbox,
        }
    }
}

/// The runtime waits for it: a question whose answer is dropped costs the agent its connection.
pub struct Answer(Box<dyn FnOnce(Result<(), String>) + Send>);

impl Answer {
    pub fn new(give: impl FnOnce(Result<(), String>) + Send + 'static) -> Self {
        Self(Box::new(give))
    }

    /// Answers well, or with the reason why not, which people read in the pod's events.
    pub fn give(self, answer: Result<(), String>) {
        (self.0)(answer);
    }
}
