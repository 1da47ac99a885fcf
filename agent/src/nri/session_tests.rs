//! A session against a runtime of this file's.

use super::super::messages::Container;
use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// What the runtime would send.
fn request(stream: u32, method: &str, payload: &impl prost::Message) -> Vec<u8> {
    let request = Request { service: PLUGIN.into(), method: method.into(), payload: payload.encode_to_vec() };
    encode(Connection::Plugin, stream, Kind::Request, &request.encode_to_vec())
}

/// What the runtime would get, by stream.
fn responses(session: &mut Session) -> Vec<(u32, Response)> {
    let mut decoder = Decoder::default();
    decoder.push(&session.outgoing());
    let mut got = Vec::new();
    while let Some(message) = decoder.next().unwrap() {
        assert_eq!(message.kind, Kind::Response);
        got.push((message.stream, Response::decode(message.body).unwrap()));
    }
    got
}

/// One that has said that it is there.
fn session() -> Session {
    let mut session = Session::new("pillion", "09", Interest::SandboxesAndContainers);
    session.outgoing();
    session
}

fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.into(), name: "web".into(), namespace: "shop".into(), ..PodSandbox::default() }
}

#[test]
fn it_registers_first_and_says_what_it_wants_to_be_asked() {
    let mut session = Session::new("pillion", "09", Interest::SandboxesAndContainers);
    let mut decoder = Decoder::default();
    decoder.push(&session.outgoing());
    let message = decoder.next().unwrap().unwrap();
    assert_eq!((message.connection, message.kind), (Connection::Runtime, Kind::Request));
    let register = Request::decode(message.body).unwrap();
    assert_eq!((register.service.as_str(), register.method.as_str()), (RUNTIME, "RegisterPlugin"));

    let taken = encode(Connection::Runtime, 1, Kind::Response, &Response::default().encode_to_vec());
    assert_eq!(session.receive(&taken).unwrap(), []);
    let configure = ConfigureRequest {
        runtime_name: "containerd".into(),
        runtime_version: "v2".into(),
        request_timeout: 700,
        ..ConfigureRequest::default()
    };
    let events = session.receive(&request(3, "Configure", &configure)).unwrap();
    let timeout = Duration::from_millis(700);
    assert_eq!(
        events,
        [Event::Configured { runtime: "containerd v2".into(), config: String::new(), timeout }]
    );
    let (stream, response) = responses(&mut session).remove(0);
    assert_eq!(stream, 3);
    assert_eq!(ConfigureResponse::decode(&response.payload[..]).unwrap().events, 0b1111);
}

#[test]
fn a_runtime_that_refuses_the_plugin_is_an_error_with_its_reason() {
    let status = Some(Status { code: 2, message: "no plugins today".into() });
    let refused = Response { status, payload: Vec::new() }.encode_to_vec();
    let error = session().receive(&encode(Connection::Runtime, 1, Kind::Response, &refused)).unwrap_err();
    assert_eq!(error.to_string(), "the runtime refuses the plugin: no plugins today");
}

#[test]
fn a_long_list_of_sandboxes_comes_in_parts_and_is_told_as_one() {
    let mut session = session();
    let part = |id: &str, more| SynchronizeRequest { pods: vec![pod(id)], more };
    assert_eq!(session.receive(&request(3, "Synchronize", &part("a", true))).unwrap(), []);
    let events = session.receive(&request(5, "Synchronize", &part("b", false))).unwrap();
    assert_eq!(events, [Event::Synchronized(vec![pod("a").into(), pod("b").into()])]);
    let more: Vec<bool> = responses(&mut session)
        .iter()
        .map(|(_, response)| SynchronizeResponse::decode(&response.payload[..]).unwrap().more)
        .collect();
    assert_eq!(more, [true, false]);
}

/// RunPodSandbox is a method of its own since NRI 0.12, and an event of StateChange before.
#[test]
fn sandboxes_are_told_in_both_ways_that_runtimes_have() {
    let mut session = session();
    let asked = |stream| Event::Asked(Question::Run(pod("a").into()), Ticket(stream));
    let now = PodRequest { pod: Some(pod("a")) };
    let before = |event| StateChangeEvent { event, pod: Some(pod("a")) };
    assert_eq!(session.receive(&request(3, "RunPodSandbox", &now)).unwrap(), [asked(3)]);
    assert_eq!(session.receive(&request(5, "StateChange", &before(1))).unwrap(), [asked(5)]);
    assert!(responses(&mut session).is_empty(), "both wait for their answer");
    for (stream, bytes) in [
        (7, request(7, "StopPodSandbox", &now)),
        (9, request(9, "RemovePodSandbox", &now)),
        (11, request(11, "StateChange", &before(2))),
        (13, request(13, "StateChange", &before(3))),
    ] {
        assert_eq!(session.receive(&bytes).unwrap(), [Event::Gone("a".into())]);
        assert_eq!(responses(&mut session), [(stream, Response::default())]);
    }
}

#[test]
fn answers_go_to_their_questions_in_any_order() {
    let mut session = session();
    let container = Some(Container { name: "app".into() });
    let create = CreateContainerRequest { pod: Some(pod("a")), container };
    let bytes = [request(3, "CreateContainer", &create), request(5, "CreateContainer", &create)].concat();
    let mut tickets: Vec<Ticket> = session
        .receive(&bytes)
        .unwrap()
        .into_iter()
        .map(|event| match event {
            Event::Asked(Question::Create { container, .. }, ticket) if container == "app" => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    session.answer(&tickets.remove(1), Err(format!("no: {}", "ä".repeat(5000))));
    session.answer(&tickets.remove(0), Ok(()));
    let responses = responses(&mut session);
    assert_eq!(responses[1], (3, Response::default()));
    let status = responses[0].1.status.clone().unwrap();
    assert_eq!((responses[0].0, status.code), (5, FAILED_PRECONDITION));
    assert!(status.message.starts_with("no: ä") && status.message.len() <= LONGEST_REASON);
}

#[test]
fn what_is_not_known_is_declined_and_the_session_goes_on() {
    let mut session = session();
    assert_eq!(session.receive(&request(3, "FoldLaundry", &Response::default())).unwrap(), []);
    assert_eq!(responses(&mut session)[0].1.status.clone().unwrap().code, UNIMPLEMENTED);
    assert_eq!(session.receive(&request(5, "Shutdown", &Response::default())).unwrap(), [Event::Shutdown]);
}

/// Whatever comes is an event, an answer or an error.
// proves: SEC-2
#[test]
fn hostile_bytes_of_a_runtime_are_an_error_and_no_panic() {
    let mut random = StdRng::seed_from_u64(2);
    let sync = SynchronizeRequest { pods: vec![pod("a"), pod("b")], more: false };
    let run = PodRequest { pod: Some(pod("a")) };
    let whole = [
        request(3, "Synchronize", &sync),
        request(5, "RunPodSandbox", &run),
        request(7, "CreateContainer", &run),
        request(9, "StateChange", &StateChangeEvent { event: 1, pod: Some(pod("a")) }),
    ];
    for _ in 0..20_000 {
        let mut bytes = whole[random.random_range(0..whole.len())].clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        let mut session = session();
        drop(session.receive(&bytes));
        drop(session.outgoing());
    }
}
