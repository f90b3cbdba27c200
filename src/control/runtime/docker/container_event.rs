//! What an event of the engine says about one container. Pure.

use bollard::models::{EventMessage, EventMessageTypeEnum};

/// SIGINT, SIGQUIT, SIGKILL, SIGTERM: the container is about to end.
const STOP_SIGNALS: [u32; 4] = [2, 3, 9, 15];
/// It stands still until SIGCONT, like a paused one, though the engine calls it running.
const SIGSTOP: u32 = 19;
const SIGCONT: u32 = 18;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It runs, or runs again.
    Started,
    Killed {
        signal: u32,
    },
    Died {
        status: i64,
    },
    Paused,
    Connected {
        network: String,
    },
    Disconnected {
        network: String,
    },
}

impl ContainerEvent {
    /// Why the container no longer serves on `network`, if it does not.
    pub fn end_reason(&self, network: Option<&str>) -> Option<String> {
        match self {
            ContainerEvent::Died { status } => Some(exit_reason(*status)),
            ContainerEvent::Paused => Some("it was paused".into()),
            ContainerEvent::Disconnected { network: from } if network == Some(from) => {
                Some("it was disconnected from its network".into())
            }
            ContainerEvent::Killed { signal: SIGSTOP } => Some("it was stopped by SIGSTOP".into()),
            _ => None,
        }
    }

    /// Why the container is about to end, if it is. `own` is the signal that `docker stop` sends it.
    pub fn stop_reason(&self, own: Option<u32>) -> Option<String> {
        match self {
            ContainerEvent::Killed { signal } if STOP_SIGNALS.contains(signal) || own == Some(*signal) => {
                Some(format!("it was sent signal {signal}"))
            }
            _ => None,
        }
    }
}

/// The number of a signal that an image names as its STOPSIGNAL: "SIGWINCH", "WINCH", "28" or "SIGRTMIN+3".
pub fn signal_number(name: &str) -> Option<u32> {
    const NAMES: [(&str, u32); 9] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("TERM", 15),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    /// The first real-time signal, as the engine counts them.
    const RTMIN: u32 = 34;
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let real_time = || RTMIN.checked_add(name.strip_prefix("RTMIN+")?.parse().ok()?);
    named.or_else(real_time).or_else(|| name.parse().ok())
}

/// A container's exit status in words. 128 and more is how an engine writes the signal that killed it.
pub fn exit_reason(status: i64) -> String {
    match status {
        129..=159 => format!("killed by signal {}", status - 128),
        other => format!("exit status {other}"),
    }
}

/// Which container an event is about, and what it says. `None` for events that change nothing here.
pub fn parse(message: &EventMessage) -> Option<(String, ContainerEvent)> {
    let actor = message.actor.clone()?;
    let attributes = actor.attributes.unwrap_or_default();
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<i64>().ok());
    let id = actor.id.unwrap_or_default();
    match (message.typ?, message.action.as_deref()?) {
        (EventMessageTypeEnum::CONTAINER, "start" | "unpause") => Some((id, ContainerEvent::Started)),
        (EventMessageTypeEnum::CONTAINER, "kill") => match u32::try_from(number("signal")?).ok()? {
            SIGCONT => Some((id, ContainerEvent::Started)),
            signal => Some((id, ContainerEvent::Killed { signal })),
        },
        (EventMessageTypeEnum::CONTAINER, "die") => {
            Some((id, ContainerEvent::Died { status: number("exitCode").unwrap_or(0) }))
        }
        (EventMessageTypeEnum::CONTAINER, "pause") => Some((id, ContainerEvent::Paused)),
        (EventMessageTypeEnum::NETWORK, action) => {
            let container = attributes.get("container")?.clone();
            let network = attributes.get("name")?.clone();
            match action {
                "disconnect" => Some((container, ContainerEvent::Disconnected { network })),
                "connect" => Some((container, ContainerEvent::Connected { network })),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_json(text: &str) -> Option<(String, ContainerEvent)> {
        parse(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn events_of_the_engine_are_read() {
        let event = |action: &str, attributes: &str| {
            parse_json(&format!(
                r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"aaa","Attributes":{attributes}}}}}"#
            ))
        };
        let container_aaa = |event| Some(("aaa".to_owned(), event));
        assert_eq!(event("start", "{}"), container_aaa(ContainerEvent::Started));
        assert_eq!(event("unpause", "{}"), container_aaa(ContainerEvent::Started));
        assert_eq!(event("pause", "{}"), container_aaa(ContainerEvent::Paused));
        assert_eq!(event("kill", r#"{"signal":"15"}"#), container_aaa(ContainerEvent::Killed { signal: 15 }));
        assert_eq!(event("kill", r#"{"signal":"18"}"#), container_aaa(ContainerEvent::Started), "SIGCONT");
        assert_eq!(event("die", r#"{"exitCode":"137"}"#), container_aaa(ContainerEvent::Died { status: 137 }));
        assert_eq!(event("exec_create: sh", "{}"), None);
    }

    #[test]
    fn a_container_is_told_to_stop_by_the_usual_signals_and_its_own() {
        let stops = |signal, own| ContainerEvent::Killed { signal }.stop_reason(own).is_some();
        assert!(stops(15, None) && stops(9, Some(28)) && stops(28, Some(28)));
        assert!(!stops(1, None) && !stops(28, None) && !stops(18, Some(28)));
        let numbers = ["SIGWINCH", "USR1", "28", "SIGRTMIN+3", "SIGNONSENSE", ""].map(signal_number);
        assert_eq!(numbers, [Some(28), Some(10), Some(28), Some(37), None, None]);
    }

    #[test]
    fn only_a_disconnect_from_the_network_that_it_serves_on_ends_it() {
        let event = |action: &str| {
            let text = r#"{"Type":"network","Action":"ACTION","Actor":{"ID":"1","Attributes":{"container":"aaa","name":"net"}}}"#;
            parse_json(&text.replace("ACTION", action))
        };
        let (network, container) = ("net".to_owned(), "aaa".to_owned());
        let connected = ContainerEvent::Connected { network: network.clone() };
        assert_eq!(event("connect"), Some((container.clone(), connected)));
        let disconnected = ContainerEvent::Disconnected { network };
        assert_eq!(event("disconnect"), Some((container, disconnected.clone())));
        assert!(disconnected.end_reason(Some("net")).is_some());
        assert_eq!((disconnected.end_reason(Some("another")), disconnected.end_reason(None)), (None, None));
    }
}
