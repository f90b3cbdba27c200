//! What an event of the engine says about one container. Pure.

use bollard::models::{EventMessage, EventMessageTypeEnum};

/// SIGINT, SIGQUIT, SIGKILL, SIGTERM: the container is about to end.
const STOP_SIGNALS: [u32; 4] = [2, 3, 9, 15];
/// It stands still until SIGCONT, like a paused one, though the engine calls it running.
const SIGSTOP: u32 = 19;
const SIGCONT: u32 = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It runs, runs again, or has been connected to a network.
    Started,
    Killed {
        signal: u32,
    },
    Died {
        status: i64,
    },
    Paused,
    /// From the replicas' network.
    Disconnected,
}

impl ContainerEvent {
    /// Why the container no longer serves, if it does not.
    pub fn end_reason(self) -> Option<String> {
        match self {
            ContainerEvent::Died { status } => Some(exit_reason(status)),
            ContainerEvent::Paused => Some("it was paused".into()),
            ContainerEvent::Disconnected => Some("it was disconnected from its network".into()),
            ContainerEvent::Killed { signal: SIGSTOP } => Some("it was stopped by SIGSTOP".into()),
            ContainerEvent::Started | ContainerEvent::Killed { .. } => None,
        }
    }

    /// Why the container is about to end, if it is.
    pub fn stop_reason(self) -> Option<String> {
        match self {
            ContainerEvent::Killed { signal } if STOP_SIGNALS.contains(&signal) => {
                Some(format!("it was sent signal {signal}"))
            }
            _ => None,
        }
    }
}

/// A container's exit status in words. 128 and more is how an engine writes the signal that killed it.
pub fn exit_reason(status: i64) -> String {
    match status {
        129..=159 => format!("killed by signal {}", status - 128),
        other => format!("exit status {other}"),
    }
}

/// Which container an event is about, and what it says. `None` for events that change nothing here.
pub fn parse(message: &EventMessage, network: &str) -> Option<(String, ContainerEvent)> {
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
            match action {
                "disconnect" if id == network => Some((container, ContainerEvent::Disconnected)),
                "connect" => Some((container, ContainerEvent::Started)),
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
        parse(&serde_json::from_str(text).unwrap(), "net1")
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
    fn only_a_disconnect_from_our_network_counts() {
        let event = |network: &str, action: &str| {
            parse_json(&format!(
                r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"{network}","Attributes":{{"container":"aaa"}}}}}}"#
            ))
        };
        assert_eq!(event("net1", "disconnect"), Some(("aaa".to_owned(), ContainerEvent::Disconnected)));
        assert_eq!(event("net2", "disconnect"), None);
        assert_eq!(event("net2", "connect"), Some(("aaa".to_owned(), ContainerEvent::Started)));
    }
}
