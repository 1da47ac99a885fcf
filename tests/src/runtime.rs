//! A container runtime without containers: it says by CRI which sandboxes there are, which are the bed's pods. Pods are
//! known by it before their objects have addresses, as on a real node.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use prost::Message;
use serde_json::json;
use std::collections::HashMap;
use std::os::unix::net::UnixListener as StdUnixListener;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::{Bed, Pod};

/// It runs until it is dropped.
pub struct Runtime {
    socket: PathBuf,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A pod's sandbox.
#[derive(Clone)]
struct Sandbox {
    name: String,
    namespace: String,
    uid: String,
    netns: PathBuf,
    ips: Vec<String>,
}

impl Runtime {
    /// Has a sandbox of each of these pods.
    pub fn start(bed: &Bed, pods: &[&Pod]) -> Result<Self> {
        let sandboxes = pods.iter().map(|pod| Sandbox::of(pod)).collect::<Result<Vec<_>>>()?;
        let socket = bed.dir().join("runtime.sock");
        let listener = StdUnixListener::bind(&socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("runtime".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a tokio runtime").block_on(async {
                tokio::select! {
                    () = serve(listener, sandboxes) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { socket, end: Some(end), thread: Some(thread) })
    }

    /// For `--cri-socket`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Sandbox {
    fn of(pod: &Pod) -> Result<Self> {
        Ok(Self {
            name: pod.name().to_owned(),
            namespace: pod.namespace().to_owned(),
            uid: pod.uid()?,
            netns: pod.netns(),
            ips: pod.addresses().iter().map(ToString::to_string).collect(),
        })
    }

    fn id(&self) -> String {
        format!("sandbox-{}", self.uid)
    }

    fn status(&self) -> StatusResponse {
        let spec = json!({"linux": {"namespaces": [{"type": "network", "path": self.netns}]}});
        let info = json!({"pid": 1, "runtimeSpec": spec}).to_string();
        let mut ips = self.ips.iter().cloned();
        let network =
            Network { ip: ips.next().unwrap_or_default(), additional_ips: ips.map(|ip| Ip { ip }).collect() };
        let metadata =
            Metadata { name: self.name.clone(), uid: self.uid.clone(), namespace: self.namespace.clone() };
        let status =
            Status { id: self.id(), metadata: Some(metadata), created_at: 1, network: Some(network) };
        StatusResponse { status: Some(status), info: HashMap::from([("info".to_owned(), info)]) }
    }
}

async fn serve(listener: StdUnixListener, sandboxes: Vec<Sandbox>) {
    let listener = UnixListener::from_std(listener).expect("it is non-blocking");
    while let Ok((stream, _)) = listener.accept().await {
        let sandboxes = sandboxes.clone();
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            // Streams of events stay open for as long as the connection does.
            let mut events = Vec::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                if method == "GetContainerEvents" {
                    events.extend(begin(respond));
                } else {
                    let sandboxes = sandboxes.clone();
                    tokio::spawn(async move {
                        let asked = message(request.into_body()).await;
                        answer(respond, &method, &asked, &sandboxes);
                    });
                }
            }
        });
    }
}

/// The message of a request, without gRPC's frame.
async fn message(mut body: h2::RecvStream) -> Bytes {
    let mut whole = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        whole.extend_from_slice(&data);
    }
    whole.freeze().slice(5..)
}

fn answer(respond: SendResponse<Bytes>, method: &str, asked: &[u8], sandboxes: &[Sandbox]) {
    let answer = match method {
        "Version" => VersionResponse { name: "test".to_owned(), version: "1".to_owned() }.encode_to_vec(),
        "ListPodSandbox" => {
            let items = sandboxes.iter().map(|sandbox| Item { id: sandbox.id() }).collect();
            ListResponse { items }.encode_to_vec()
        }
        "PodSandboxStatus" => {
            let Item { id } = Item::decode(asked).unwrap_or_default();
            let found = sandboxes.iter().find(|sandbox| sandbox.id() == id);
            found.map(Sandbox::status).unwrap_or_default().encode_to_vec()
        }
        _ => Vec::new(),
    };
    let Some(mut stream) = begin(respond) else { return };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(answer.len() as u32);
    framed.extend_from_slice(&answer);
    let _ = stream.send_data(framed.freeze(), false);
    let _ = stream.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]));
}

fn begin(mut respond: SendResponse<Bytes>) -> Option<h2::SendStream<Bytes>> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    respond.send_response(head, false).ok()
}

// Messages of CRI (`runtime.v1`), as far as they are written here.

#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Item>,
}

/// Of a list; and a question for one.
#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<Ip>,
}

#[derive(Clone, PartialEq, Message)]
struct Ip {
    #[prost(string, tag = "1")]
    ip: String,
}
