//! A lack of local resources (descriptors, ports, memory) is not reported as a fault of a replica: the request waits for
//! them, and is answered 503 if that takes too long.

use ringway::core::limits::Limits;
use ringway::core::snapshot::ReplicaId;
use ringway::core::step::{Connect, Ending, FaultKind, Notice, ReplicaFault};

use crate::rig::{Answer, Cut, End, Fate, Rig};
use crate::row::{GET, OK};
use crate::strict;

fn ok() -> Answer {
    Answer { bytes: OK.to_vec(), ..Answer::default() }
}

/// A rig whose first `times` connects lack resources.
fn short(times: usize, request: &[u8], cut: Cut) -> Rig {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.connects.extend(vec![Connect::NoResources; times]);
    rig.client_sends(request, cut);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    rig
}

#[test]
fn a_request_waits_for_resources_and_is_served() {
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    for request in [GET, POST] {
        for cut in [Cut::Whole, Cut::Bytes, Cut::At(request.len() - 1)] {
            let mut rig = short(3, request, cut);
            for _ in 0..3 {
                assert!(rig.upstreams.is_empty() && rig.to_client.is_empty() && rig.closed.is_none());
                rig.session.on_room();
                rig.run();
            }
            assert_eq!(rig.to_client, OK, "{cut:?}");
            assert_eq!(strict::requests(&rig.received()).0.len(), 1);
            assert!(rig.notices.is_empty(), "no fault is reported: {:?}", rig.notices);
        }
    }
}

#[test]
fn a_request_that_waits_too_long_is_answered_503_with_retry_after() {
    let mut rig = short(1, GET, Cut::Whole);
    rig.time_out();
    let answer = String::from_utf8_lossy(&rig.to_client).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert_eq!((rig.upstreams.len(), rig.closed), (0, Some(Ending::Clean)));
    assert!(
        rig.notices.iter().all(|notice| matches!(notice, Notice::Refused { status: 503, .. })),
        "{:?}",
        rig.notices
    );
    // Resources that become free after the deadline have no effect.
    rig.session.on_room();
    assert!(rig.upstreams.is_empty());
}

#[test]
fn a_client_that_half_closes_while_it_waits_gets_its_response() {
    let mut rig = short(1, GET, Cut::Whole);
    rig.client_ends(End::Fin);
    rig.run();
    rig.session.on_room();
    rig.run();
    assert_eq!((rig.to_client.as_slice(), rig.upstreams[0].fate), (OK, Fate::Released));
}

#[test]
fn a_retry_waits_for_resources_too() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.connects.push_back(Connect::Failed { replica: ReplicaId(9), why: std::io::ErrorKind::ConnectionRefused });
    rig.connects.push_back(Connect::NoResources);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    assert!(rig.upstreams.is_empty() && rig.to_client.is_empty());
    rig.session.on_room();
    rig.run();
    assert_eq!(rig.to_client, OK);
    assert!(
        matches!(
            rig.notices[..],
            [Notice::Fault(ReplicaFault { replica: ReplicaId(9), kind: FaultKind::ConnectFailed(_) })]
        ),
        "{:?}",
        rig.notices
    );
}
