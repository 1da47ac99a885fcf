//! A plugin's side of the protocol, without I/O: what the runtime's bytes mean, and the bytes to answer with.

use super::frames::{Connection, Decoder, FrameError, Kind, Message, encode};
use super::messages::{
    CREATE_CONTAINER, ConfigureRequest, ConfigureResponse, CreateContainerRequest, FAILED_PRECONDITION,
    PLUGIN, PodRequest, PodSandbox, REMOVE_POD_SANDBOX, RUN_POD_SANDBOX, RUNTIME, RegisterPluginRequest,
    Request, Response, STOP_POD_SANDBOX, StateChangeEvent, Status, SynchronizeRequest, SynchronizeResponse,
    UNIMPLEMENTED,
};
use crate::sandbox::{Question, Sandbox};
use prost::Message as _;
use std::time::Duration;

/// How long runtimes wait that do not say so (`DefaultPluginRequestTimeout` of NRI).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is said of an error goes into one frame.
const LONGEST_REASON: usize = 1500;

/// What a plugin wants to be asked.
#[derive(Clone, Copy)]
pub enum Interest {
    /// Sandboxes come and go, containers are made.
    SandboxesAndContainers,
    /// Containers are made.
    Containers,
}

/// With which question an answer goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u32);

/// What has come of the runtime's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The runtime has taken the plugin.
    Configured {
        runtime: String,
        config: String,
        timeout: Duration,
    },
    /// All sandboxes that there are.
    Synchronized(Vec<Sandbox>),
    Asked(Question, Ticket),
    /// The sandbox with this id has ended; its network is about to go.
    Gone(String),
    /// The runtime is about to end.
    Shutdown,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the runtime sent {0}")]
    Frame(#[from] FrameError),
    #[error("the runtime sent a {what} that cannot be read: {source}")]
    Message { what: String, source: prost::DecodeError },
    #[error("the runtime refuses the plugin: {0}")]
    Refused(String),
}

pub struct Session {
    interest: Interest,
    decoder: Decoder,
    /// What of all sandboxes has come so far: a long list comes in parts.
    sandboxes: Vec<Sandbox>,
    /// What is to be sent.
    outgoing: Vec<u8>,
}

impl Session {
    /// Plugins are asked in the order of their indices, of two digits.
    pub fn new(name: &str, index: &str, interest: Interest) -> Self {
        let register = RegisterPluginRequest { plugin_name: name.into(), plugin_idx: index.into() };
        let request = Request {
            service: RUNTIME.to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: register.encode_to_vec(),
        };
        let outgoing = encode(Connection::Runtime, 1, Kind::Request, &request.encode_to_vec());
        Self { interest, decoder: Decoder::default(), sandboxes: Vec::new(), outgoing }
    }

    /// The agent's, which wants to be asked of all that there is.
    pub(crate) fn agent() -> Self {
        Self::new("pillion", "10", Interest::SandboxesAndContainers)
    }

    /// Takes what is to be sent by now.
    pub fn outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Takes what has come; gives what it means. After an error the connection is of no use.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SessionError> {
        self.decoder.push(bytes);
        let mut events = Vec::new();
        while let Some(message) = self.decoder.next()? {
            match (message.connection, message.kind) {
                (Connection::Plugin, Kind::Request) => events.extend(self.on_request(&message)?),
                (Connection::Runtime, Kind::Response) => on_registered(&message)?,
                // Nobody asks there, and nothing was asked here.
                _ => {}
            }
        }
        Ok(events)
    }

    /// Answers a question: well, or with the reason why not.
    pub fn answer(&mut self, ticket: &Ticket, answer: Result<(), String>) {
        let status = answer.err().map(|mut message| {
            message.truncate(message.floor_char_boundary(LONGEST_REASON));
            Status { code: FAILED_PRECONDITION, message }
        });
        self.respond(ticket.0, Response { status, payload: Vec::new() });
    }

    fn on_request(&mut self, message: &Message) -> Result<Option<Event>, SessionError> {
        let stream = message.stream;
        let request: Request = decode("request", &message.body)?;
        let payload = &request.payload[..];
        if request.service != PLUGIN {
            return Ok(self.decline(stream, &request));
        }
        match request.method.as_str() {
            "Configure" => {
                let asked: ConfigureRequest = decode("Configure", payload)?;
                self.accept(stream, &ConfigureResponse { events: self.interest.events() });
                let timeout = u64::try_from(asked.request_timeout).ok().filter(|millis| *millis > 0);
                Ok(Some(Event::Configured {
                    runtime: format!("{} {}", asked.runtime_name, asked.runtime_version),
                    config: asked.config,
                    timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
                }))
            }
            "Synchronize" => {
                let part: SynchronizeRequest = decode("Synchronize", payload)?;
                self.accept(stream, &SynchronizeResponse { more: part.more });
                self.sandboxes.extend(part.pods.into_iter().map(Sandbox::from));
                Ok((!part.more).then(|| Event::Synchronized(std::mem::take(&mut self.sandboxes))))
            }
            "StateChange" => {
                let change: StateChangeEvent = decode("StateChange", payload)?;
                Ok(self.on_pod(stream, change.event, change.pod))
            }
            "RunPodSandbox" => self.on_pod_request(stream, RUN_POD_SANDBOX, payload),
            "StopPodSandbox" => self.on_pod_request(stream, STOP_POD_SANDBOX, payload),
            "RemovePodSandbox" => self.on_pod_request(stream, REMOVE_POD_SANDBOX, payload),
            "CreateContainer" => {
                let create: CreateContainerRequest = decode("CreateContainer", payload)?;
                let sandbox = create.pod.unwrap_or_default().into();
                let container = create.container.unwrap_or_default().name;
                Ok(Some(Event::Asked(Question::Create { sandbox, container }, Ticket(stream))))
            }
            "Shutdown" => {
                self.respond(stream, Response::default());
                Ok(Some(Event::Shutdown))
            }
            _ => Ok(self.decline(stream, &request)),
        }
    }

    fn on_pod_request(
        &mut self,
        stream: u32,
        event: i32,
        payload: &[u8],
    ) -> Result<Option<Event>, SessionError> {
        let request: PodRequest = decode("pod", payload)?;
        Ok(self.on_pod(stream, event, request.pod))
    }

    fn on_pod(&mut self, stream: u32, event: i32, pod: Option<PodSandbox>) -> Option<Event> {
        let sandbox = Sandbox::from(pod.unwrap_or_default());
        if event == RUN_POD_SANDBOX {
            return Some(Event::Asked(Question::Run(sandbox), Ticket(stream)));
        }
        self.respond(stream, Response::default());
        matches!(event, STOP_POD_SANDBOX | REMOVE_POD_SANDBOX).then_some(Event::Gone(sandbox.id))
    }

    /// Newer runtimes ask more, and go on when that is not known.
    fn decline(&mut self, stream: u32, request: &Request) -> Option<Event> {
        let message = format!("{:.60}/{:.60} is not known", request.service, request.method);
        let status = Some(Status { code: UNIMPLEMENTED, message });
        self.respond(stream, Response { status, payload: Vec::new() });
        None
    }

    fn accept(&mut self, stream: u32, answer: &impl prost::Message) {
        self.respond(stream, Response { status: None, payload: answer.encode_to_vec() });
    }

    fn respond(&mut self, stream: u32, response: Response) {
        self.outgoing.extend(encode(Connection::Plugin, stream, Kind::Response, &response.encode_to_vec()));
    }
}

impl Interest {
    /// A bit for each event. CreateContainer is among them in any case.
    fn events(self) -> i32 {
        let events: &[i32] = match self {
            Self::Containers => &[CREATE_CONTAINER],
            Self::SandboxesAndContainers => {
                &[RUN_POD_SANDBOX, STOP_POD_SANDBOX, REMOVE_POD_SANDBOX, CREATE_CONTAINER]
            }
        };
        events.iter().map(|event| 1 << (event - 1)).sum()
    }
}

fn on_registered(message: &Message) -> Result<(), SessionError> {
    let response: Response = decode("response", &message.body)?;
    match response.status {
        Some(status) if status.code != 0 => Err(SessionError::Refused(status.message)),
        _ => Ok(()),
    }
}

fn decode<M: prost::Message + Default>(what: &str, bytes: &[u8]) -> Result<M, SessionError> {
    M::decode(bytes).map_err(|source| SessionError::Message { what: what.to_owned(), source })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
