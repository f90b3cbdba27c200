//! The Docker runtime alone: starts, stops, events, adoption and errors on a real engine.

use std::time::Duration;

use ringway::control::runtime::docker::Docker;
use ringway::control::runtime::revisions::Revision;
use ringway::control::runtime::{FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started};
use ringway::core::snapshot::ServiceId;
use ringway::settings::{ContainerSettings, DockerSettings, OnExit};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::lab::{Lab, docker};

/// Limit of an event, which comes within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn settings(lab: &Lab) -> DockerSettings {
    DockerSettings {
        image: lab.image.clone(),
        network: lab.network.clone(),
        subnet: Some(lab.subnet.clone()),
        cluster: lab.cluster.clone(),
        ..DockerSettings::default()
    }
}

fn spec(name: &str, instance: u64) -> Spec {
    let instance = InstanceId::Managed(instance);
    Spec { service: ServiceId::default(), name: name.into(), instance, revision: Revision::FIRST, replaces: None }
}

fn replacement(name: &str, instance: u64, replaces: u64) -> Spec {
    Spec { replaces: Some(InstanceId::Managed(replaces)), ..spec(name, instance) }
}

async fn opened(settings: DockerSettings) -> (Docker, UnboundedReceiver<RuntimeEvent>, Vec<(Spec, Started)>) {
    let runtime = Docker::open(settings, "default", None).await.unwrap();
    let (sender, events) = unbounded_channel();
    let adopted = runtime.attach(sender).await.unwrap();
    (runtime, events, adopted)
}

async fn next(events: &mut UnboundedReceiver<RuntimeEvent>) -> RuntimeEvent {
    tokio::time::timeout(TIMEOUT, events.recv()).await.expect("an event").expect("the watch lives")
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_instance_that_was_killed_is_replaced_under_its_name() {
    let lab = Lab::new("replace");
    run(async {
        let (runtime, mut events, _) = opened(settings(&lab)).await;
        let first = runtime.start(&spec(&lab.name(1), 1)).await.unwrap();
        assert_eq!(
            docker(&["inspect", "-f", "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}", &lab.name(1)]),
            "true [ALL]"
        );
        docker(&["kill", &lab.name(1)]);
        let stopping = next(&mut events).await;
        assert!(matches!(&stopping, RuntimeEvent::Stopping { instance: InstanceId::Managed(1), .. }), "{stopping:?}");
        let exited = next(&mut events).await;
        assert!(
            matches!(&exited, RuntimeEvent::Exited { instance: InstanceId::Managed(1), why } if why == "killed by signal 9"),
            "{exited:?}"
        );
        let second = runtime.start(&replacement(&lab.name(1), 2, 1)).await.unwrap();
        assert_ne!(first.handle, second.handle);
        runtime.stop(InstanceId::Managed(2), Duration::from_secs(5)).await.unwrap();
        runtime.stop(InstanceId::Managed(2), Duration::from_secs(5)).await.unwrap();
        runtime.close().await;
        assert_eq!(lab.containers(), Vec::<String>::new());
        assert!(events.try_recv().is_err(), "our own stop is no event");
    });
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_silent_instance_keeps_its_address_until_its_replacement_has_one() {
    let lab = Lab::new("silent");
    run(async {
        let (runtime, mut events, _) = opened(settings(&lab)).await;
        let first = runtime.start(&spec(&lab.name(1), 1)).await.unwrap();
        docker(&["pause", &lab.name(1)]);
        let exited = next(&mut events).await;
        assert!(
            matches!(&exited, RuntimeEvent::Exited { instance: InstanceId::Managed(1), why } if why == "it was paused"),
            "{exited:?}"
        );
        let second = runtime.start(&replacement(&lab.name(1), 2, 1)).await.unwrap();
        assert_ne!(first.endpoint, second.endpoint);
        // This time the registry found it silent.
        runtime.stop(InstanceId::Managed(2), Duration::ZERO).await.unwrap();
        let third = runtime.start(&replacement(&lab.name(1), 3, 2)).await.unwrap();
        assert_ne!(second.endpoint, third.endpoint);
        runtime.stop(InstanceId::Managed(3), Duration::from_secs(5)).await.unwrap();
        runtime.close().await;
        assert_eq!(lab.containers(), Vec::<String>::new());
        assert!(!lab.network_exists(), "a network that Ringway made is removed with its last container");
    });
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn containers_of_an_earlier_run_are_adopted_or_removed_as_configured() {
    let lab = Lab::new("adopt");
    let keep = DockerSettings { on_exit: OnExit::Keep, ..settings(&lab) };
    run(async {
        let (runtime, _events, _) = opened(keep.clone()).await;
        for n in 1..=3 {
            runtime.start(&spec(&lab.name(n), n)).await.unwrap();
        }
    });
    docker(&["pause", &lab.name(2)]);
    run(async {
        let (runtime, mut events, adopted) = opened(keep.clone()).await;
        let names: Vec<String> = adopted.iter().map(|(spec, _)| format!("{} {}", spec.name, spec.instance)).collect();
        let expected = [format!("{} 1", lab.name(1)), format!("{} 3", lab.name(3))];
        assert!(names.iter().all(|name| expected.contains(name)) && names.len() == 2, "{names:?}");
        docker(&["kill", &lab.name(3)]);
        // The kill may come before the subscription to events: then only the list shows that it ended.
        let mut event = next(&mut events).await;
        if matches!(event, RuntimeEvent::Stopping { instance: InstanceId::Managed(3), .. }) {
            event = next(&mut events).await;
        }
        assert!(matches!(event, RuntimeEvent::Exited { instance: InstanceId::Managed(3), .. }), "{event:?}");
        runtime.close().await;
    });
    let changed =
        DockerSettings { container: ContainerSettings { memory_bytes: Some(64 << 20), ..Default::default() }, ..keep };
    run(async {
        let (runtime, _events, adopted) = opened(changed.clone()).await;
        let [(spec, _)] = &adopted[..] else { panic!("{adopted:?}") };
        assert_eq!(spec.revision, Revision::UNKNOWN, "it has other settings");
        runtime.start(&replacement(&spec.name, 9, spec.instance.number())).await.unwrap();
        assert_eq!(lab.serving().len(), 2, "the old one serves while the new one starts");
        runtime.stop(spec.instance, Duration::from_secs(5)).await.unwrap();
        let name = spec.name.to_string();
        while lab.serving() != [name.clone()] {
            tokio::task::yield_now().await;
        }
    });
    let (_, adopted) = run(async {
        let (runtime, _events, adopted) = opened(DockerSettings { on_exit: OnExit::Remove, ..changed }).await;
        (runtime, adopted)
    });
    assert!(adopted.is_empty(), "{adopted:?}");
    assert_eq!(lab.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_foreign_name_a_missing_image_and_a_container_that_ends_at_once_are_errors() {
    let lab = Lab::new("refuse");
    run(async {
        let (runtime, _events, _) = opened(settings(&lab)).await;
        lab.run_foreign(&lab.name(1), &[]);
        let failure = runtime.start(&spec(&lab.name(1), 1)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NameTaken, "{}", failure.message);
        assert!(failure.message.contains(&lab.name(1)), "{}", failure.message);
    });
    run(async {
        let missing = DockerSettings { image: "rwtest/no-such-image:1".into(), ..settings(&lab) };
        let failure = Docker::open(missing, "default", None).await.err().unwrap();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(failure.message.contains("docker pull rwtest/no-such-image:1"), "{}", failure.message);
    });
    run(async {
        let crashing = DockerSettings { env: vec![("RINGWAY_BIND".into(), "nonsense".into())], ..settings(&lab) };
        let (runtime, _events, _) = opened(crashing).await;
        // It ends before its start returns, which then fails, or after it, which an event reports.
        if let Err(failure) = runtime.start(&spec(&lab.name(2), 2)).await {
            assert_eq!(failure.kind, FailureKind::Refused, "{}", failure.message);
        }
        runtime.close().await;
    });
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn labelled_foreign_containers_join_and_leave() {
    let lab = Lab::new("foreign");
    run(async {
        let (_runtime, mut events, _) = opened(settings(&lab)).await;
        let foreign = lab.name(7);
        lab.run_foreign(&foreign, &["--label", "ringway.enable=true", "--label", "ringway.weight=3"]);
        let RuntimeEvent::Joined { spec, started, .. } = next(&mut events).await else { panic!("none joined") };
        assert_eq!((&*spec.name, started.weight), (foreign.as_str(), 3));
        let first = spec.instance;
        docker(&["stop", &foreign]);
        assert!(matches!(next(&mut events).await, RuntimeEvent::Stopping { instance, .. } if instance == first));
        assert!(matches!(next(&mut events).await, RuntimeEvent::Left { instance, .. } if instance == first));
        docker(&["start", &foreign]);
        let RuntimeEvent::Joined { spec, .. } = next(&mut events).await else { panic!("it did not join again") };
        assert_ne!(spec.instance, first);
        docker(&["pause", &foreign]);
        assert!(matches!(next(&mut events).await, RuntimeEvent::Left { instance, .. } if instance == spec.instance));
        docker(&["unpause", &foreign]);
        let RuntimeEvent::Joined { spec, .. } = next(&mut events).await else { panic!("it did not join again") };
        docker(&["kill", "--signal", "STOP", &foreign]);
        assert!(matches!(next(&mut events).await, RuntimeEvent::Left { instance, .. } if instance == spec.instance));
        docker(&["kill", "--signal", "CONT", &foreign]);
        assert!(matches!(next(&mut events).await, RuntimeEvent::Joined { .. }));
        assert_eq!(
            docker(&["inspect", "-f", "{{.State.Running}}", &foreign]),
            "true",
            "a foreign container is not touched"
        );
    });
}
