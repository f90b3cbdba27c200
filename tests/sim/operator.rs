//! Faults and calls from outside, drawn once a second: replicas die, operators call the admin API and reload. How the
//! balancer carries them out does not enter here.

use ringway::control::registry::{Call, Change};

use super::configuration::{Configuration, HTTP, draw_policy};
use super::net::{Net, ProcessId};
use super::reloads::{Reload, Reloads};

pub struct Operator {
    /// What a process would read now.
    pub configuration: Configuration,
    reloads: Option<Reloads>,
    ticket: u64,
    names: u64,
}

impl Operator {
    pub fn new(net: &mut Net, configuration: Configuration) -> Operator {
        let reloads = Reloads::draw(&configuration, net.random.reloads()).filter(|_| !net.faults.serial);
        net.history.has_removals = net.faults.calls > 0 || reloads.is_some();
        Operator { configuration, reloads, ticket: 0, names: 0 }
    }

    /// An admin call to this process, with its ticket.
    pub fn call(&mut self, net: &mut Net, process: ProcessId) -> (u64, Call) {
        self.ticket += 1;
        let mut change = Change {
            n: net.random.control().range(1, 2),
            hostnames: Vec::new(),
            dry_run: net.random.control().one_in(10),
        };
        if net.random.control().one_in(2) {
            self.names += 1;
            change.hostnames.push(format!("named{}", self.names));
        }
        let members = net.history.member_names(process, HTTP).len();
        let call = if net.random.control().one_in(2) || members < 4 {
            Call::Add(change)
        } else {
            Call::Remove(Change { hostnames: Vec::new(), ..change })
        };
        net.note("p.call", self.ticket, 0, 0);
        (self.ticket, call)
    }

    /// Another configuration with its ticket, if the world has reloads and now is the time.
    pub fn reload(&mut self, net: &mut Net) -> Option<(u64, Reload)> {
        let mut reload = self.reloads.as_ref()?.next(self.configuration.instance_settings, net.random.reloads())?;
        if reload.configuration.draws_policies {
            let policy = draw_policy(net.random.balance());
            let Configuration { http, second, .. } = &mut reload.configuration;
            [Some(http), second.as_mut()].into_iter().flatten().for_each(|service| service.policy = policy);
        }
        self.configuration = reload.configuration.clone();
        self.ticket += 1;
        net.note("p.reload", self.ticket, 0, 0);
        Some((self.ticket, reload))
    }
}
