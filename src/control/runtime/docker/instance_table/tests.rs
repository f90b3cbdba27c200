//! The table alone: events, lists, starts and stops in, actions out.

use super::super::confinement::ImageKind;
use super::super::plan::Image;
use super::*;
use crate::control::runtime::revisions::Revision;
use crate::core::snapshot::ServiceId;
use crate::settings::DockerSettings;

const RUN_ID: &str = "now";

const GRACE: Duration = Duration::from_secs(2);

fn spec(instance: u64, replaces: Option<u64>) -> Spec {
    let managed = InstanceId::Managed;
    Spec {
        service: ServiceId::default(),
        name: "server1".into(),
        instance: managed(instance),
        revision: Revision::FIRST,
        replaces: replaces.map(managed),
    }
}

/// An image whose containers are stopped by SIGWINCH.
fn launch() -> Launch {
    let image = Image { id: "sha256:1".into(), kind: ImageKind::Own, stop_signal: Some(28) };
    Launch::new(DockerSettings::default(), "net", &image, None)
}

/// Instance 1 in container "aaa".
fn running() -> InstanceTable {
    let mut table = InstanceTable::new("net");
    run(&mut table, spec(1, None), "aaa");
    table
}

fn run(table: &mut InstanceTable, spec: Spec, container: &str) {
    table.begin(&spec, &launch());
    table.created(spec.instance.number(), container);
    assert!(table.started(spec.instance.number()));
}

fn labels(instance: u64, run_id: &str) -> Option<ManagedLabels> {
    Some(ManagedLabels { slot: "server1".into(), instance, run_id: run_id.into(), plan: String::new() })
}

fn serving(container: &str, labels: Option<ManagedLabels>) -> ListedContainer {
    ListedContainer { container: container.into(), serving: true, labels, addresses: BTreeMap::new() }
}

#[test]
fn an_exit_is_reported_once() {
    let mut table = running();
    let why = "killed by signal 9".to_owned();
    let died = ContainerEvent::Died { status: 137 };
    assert_eq!(table.on_event("aaa", &died), [Action::Exited { instance: 1, why }]);
    assert_eq!(table.on_event("aaa", &ContainerEvent::Paused), []);
    assert_eq!(table.confirm_gone(1, "gone".into()), None);
    assert_eq!(table.compare(&[], RUN_ID), []);
}

#[test]
fn what_stays_when_ringway_ends_is_named() {
    let mut table = running();
    assert_eq!(table.left_behind(OnExit::Remove), ["server1 (container aaa)"]);
    assert!(table.left_behind(OnExit::Keep).is_empty(), "it is to run on");
    table.begin_stop(1, GRACE);
    table.removal_failed(1);
    assert_eq!(table.left_behind(OnExit::Keep), ["server1 (container aaa)"], "it was to be removed");
    table.removed(1);
    assert!(table.left_behind(OnExit::Remove).is_empty());
}

#[test]
fn a_stop_signal_is_reported_unless_it_is_ours() {
    let killed = |signal: u32| ContainerEvent::Killed { signal };
    let mut table = running();
    let why = "it was sent signal 15".to_owned();
    assert_eq!(table.on_event("aaa", &killed(1)), []);
    assert_eq!(table.on_event("aaa", &killed(15)), [Action::Stopping { instance: InstanceId::Managed(1), why }]);
    assert_eq!(table.on_event("aaa", &killed(9)), []);
    let died = ContainerEvent::Died { status: 0 };
    assert!(matches!(table.on_event("aaa", &died)[..], [Action::Exited { .. }]));
    assert!(matches!(running().on_event("aaa", &killed(28))[..], [Action::Stopping { .. }]), "its own stop signal");
    let mut table = running();
    table.begin_stop(1, GRACE);
    assert_eq!(table.on_event("aaa", &killed(15)), []);
    assert_eq!(table.on_event("aaa", &died), []);
}

#[test]
fn a_paused_stopped_or_disconnected_container_counts_as_ended() {
    let disconnected = ContainerEvent::Disconnected { network: "net".into() };
    for event in [ContainerEvent::Paused, ContainerEvent::Killed { signal: 19 }, disconnected] {
        assert!(matches!(running().on_event("aaa", &event)[..], [Action::Exited { instance: 1, .. }]));
    }
    let another = ContainerEvent::Disconnected { network: "another".into() };
    assert_eq!(running().on_event("aaa", &another), []);
}

#[test]
fn an_instance_that_dies_while_it_starts_fails_its_start() {
    let mut table = InstanceTable::new("net");
    table.begin(&spec(1, None), &launch());
    table.created(1, "aaa");
    assert_eq!(table.on_event("aaa", &ContainerEvent::Died { status: 1 }), []);
    assert!(!table.started(1));
}

#[test]
fn an_instance_missing_from_the_list_is_confirmed_and_an_unknown_one_removed() {
    let mut table = running();
    let confirm = [Action::Confirm { instance: 1, container: "aaa".into() }];
    let stopped = ListedContainer { serving: false, ..serving("aaa", labels(1, RUN_ID)) };
    assert_eq!(table.compare(&[serving("aaa", labels(1, RUN_ID))], RUN_ID), []);
    assert_eq!(table.compare(&[stopped], RUN_ID), confirm);
    assert_eq!(table.compare(&[], RUN_ID), confirm);
    let remove = |container: &str| [Action::Remove { container: container.into() }];
    let list = [
        serving("aaa", labels(1, RUN_ID)),
        serving("bbb", labels(9, RUN_ID)),
        serving("ccc", labels(9, "another run")),
    ];
    assert_eq!(table.compare(&list, RUN_ID), remove("bbb"));
    table.begin(&spec(9, None), &launch());
    assert_eq!(table.compare(&list, RUN_ID), [], "created a moment ago, its id not yet known");
    table.begin_stop(1, GRACE);
    table.removal_failed(1);
    assert_eq!(table.compare(&list[..1], RUN_ID), remove("aaa"));
}

#[test]
fn an_adopted_container_is_managed_though_another_run_created_it() {
    let mut table = InstanceTable::new("net");
    table.adopt(&spec(4, None), &launch(), "aaa");
    assert_eq!(table.compare(&[serving("aaa", labels(4, "an earlier run"))], RUN_ID), []);
    let died = ContainerEvent::Died { status: 1 };
    assert!(matches!(table.on_event("aaa", &died)[..], [Action::Exited { instance: 4, .. }]));
}

#[test]
fn a_container_that_is_not_managed_is_inspected() {
    let mut table = InstanceTable::new("net");
    let inspect = |inspection: u64| [Action::Inspect { container: "zzz".into(), inspection }];
    assert_eq!(table.on_event("zzz", &ContainerEvent::Died { status: 0 }), []);
    assert_eq!(table.on_event("zzz", &ContainerEvent::Started), inspect(1));
    assert_eq!(table.on_inspected("zzz", 1, Inspected::Unanswered), []);
    assert_eq!(table.compare(&[serving("zzz", None)], RUN_ID), inspect(2));
}

#[test]
fn an_instance_that_outlives_a_stop_signal_has_ended() {
    let actions = running().outlived_its_stop(InstanceId::Managed(1), "still running".into());
    assert!(matches!(actions[..], [Action::Exited { instance: 1, .. }]));
}

#[test]
fn how_an_instance_is_stopped_depends_on_its_phase_and_the_grace() {
    let mut table = InstanceTable::new("net");
    assert_eq!(table.begin_stop(1, GRACE), StopPlan::Nothing);
    table.begin(&spec(1, None), &launch());
    assert_eq!(table.begin_stop(1, GRACE), StopPlan::AwaitStart, "no container is known");
    table.begin(&spec(2, None), &launch());
    table.created(2, "bbb");
    assert_eq!(table.begin_stop(2, Duration::ZERO), StopPlan::AwaitStart);
    assert!(!table.started(2), "it is not wanted any more");
    assert!(!table.is_start_cleaned_up(2));
    table.removed(2);
    assert!(table.is_start_cleaned_up(2));
    let stop =
        StopPlan::StopAndRemove { name: "server1".into(), container: "aaa".into(), timeout: launch().stop_timeout };
    assert_eq!(running().begin_stop(1, GRACE), stop);
    let mut table = running();
    assert_eq!(table.begin_stop(1, Duration::ZERO), StopPlan::RemoveLater);
    assert_eq!(table.begin_stop(1, GRACE), stop, "asked again");
    assert!(table.has_removals());
    table.removed(1);
    assert!(!table.has_removals());
}

#[test]
fn a_replacement_starts_under_a_temporary_name_and_others_under_the_slots() {
    let mut table = running();
    table.on_event("aaa", &ContainerEvent::Paused);
    assert_eq!(table.begin(&spec(2, None), &launch()), InitialName::Slot, "the spec decides, not the name");
    assert_eq!(table.begin(&spec(3, Some(1)), &launch()), InitialName::Temporary);
    assert_eq!(table.replaced_containers(3), [(1, "aaa".to_owned())]);
    table.removed(1);
    assert_eq!(
        table.begin(&spec(4, Some(1)), &launch()),
        InitialName::Slot,
        "the replaced container does not exist any more"
    );
}

#[test]
fn an_instance_is_replaced_when_its_replacement_runs() {
    let mut table = running();
    table.on_event("aaa", &ContainerEvent::Paused);
    assert!(!table.has_replacement(1));
    table.begin(&spec(2, Some(1)), &launch());
    assert!(table.has_replacement(1) && !table.has_replacement(2));
    assert!(!table.is_replaced(1));
    table.created(2, "bbb");
    assert!(table.started(2));
    assert!(table.is_replaced(1));
    assert!(!table.is_replaced(2));
    table.close();
    assert!(table.has_replacement(2) && table.is_replaced(2), "none will come");
}

#[test]
fn a_replacement_of_a_replacement_replaces_the_first_too() {
    let mut table = running();
    run(&mut table, spec(2, Some(1)), "bbb");
    table.on_event("bbb", &ContainerEvent::Died { status: 1 });
    run(&mut table, spec(3, Some(2)), "ccc");
    assert_eq!(table.replaced_containers(3), [(2, "bbb".to_owned()), (1, "aaa".to_owned())]);
    assert!(table.is_replaced(1));
    table.removed(2);
    assert_eq!(table.replaced_containers(3), [(1, "aaa".to_owned())], "the chain closes over a removed one");
    assert!(table.is_replaced(1));
}

#[test]
fn a_replacement_takes_the_name_when_the_one_before_has_ended() {
    let mut table = running();
    run(&mut table, spec(2, Some(1)), "bbb");
    assert!(!table.may_take_name(2), "the one before still serves");
    table.begin_stop(1, GRACE);
    assert!(table.may_take_name(2));
    let mut table = running();
    run(&mut table, spec(2, Some(1)), "bbb");
    table.on_event("bbb", &ContainerEvent::Died { status: 1 });
    assert!(table.may_take_name(2), "it needs none any more");
}

#[test]
fn a_spec_that_replaces_a_later_instance_replaces_none() {
    let mut table = running();
    assert_eq!(table.begin(&spec(0, Some(1)), &launch()), InitialName::Slot);
    assert_eq!(table.begin(&spec(1, Some(1)), &launch()), InitialName::Slot);
}

#[test]
fn a_name_may_be_taken_from_an_ended_container_only() {
    let mut table = running();
    let left_over = |table: &InstanceTable, container: &str, instance: u64, run_id: &str| {
        table.is_left_over(container, &labels(instance, run_id).unwrap(), RUN_ID)
    };
    assert!(!left_over(&table, "aaa", 1, RUN_ID), "it runs");
    assert!(!left_over(&table, "bbb", 1, RUN_ID), "instance 1 runs");
    assert!(left_over(&table, "bbb", 7, RUN_ID), "of this run, and no instance needs it");
    assert!(!left_over(&table, "bbb", 7, "another run"));
    table.begin_stop(1, GRACE);
    assert!(left_over(&table, "aaa", 1, RUN_ID));
    table.adopt(&spec(4, None), &launch(), "ddd");
    table.on_event("ddd", &ContainerEvent::Died { status: 1 });
    assert!(left_over(&table, "ddd", 4, "an earlier run"), "adopted, and ended");
}
