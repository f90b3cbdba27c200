//! The table `[limits]`: caps of the whole balancer, and a flag for each limit of a service, made from its description.

use clap::builder::RangedU64ValueParser as Number;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::{units, values};
use crate::core::limits::{AbortOn, Limit, Limits, Unit};

const HEADING: &str = "Limits";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = HEADING)]
pub struct LimitSettings {
    /// Client connections in all, shared evenly by the workers; 0 is no cap
    #[arg(long, value_name = "N", default_value = "0")]
    pub max_connections: usize,
    /// Client connections of each client address, in all workers together; 0 is no cap. An IPv6 client is its /64; behind
    /// --accept-proxy-from it is the client that the PROXY header names
    #[arg(long, value_name = "N", default_value = "0")]
    pub max_connections_per_client: usize,
    /// TLS handshakes of clients that are under way in all, shared evenly by the workers; 0 is no cap. Other clients wait
    /// in the backlog of the listener
    #[arg(long, value_name = "N", default_value = "4096")]
    pub tls_max_handshakes: usize,
    /// Replicas in all: /add does not go beyond
    #[arg(long, value_name = "N", default_value = "64", value_parser = Number::<usize>::new().range(1..=10_000))]
    pub max_replicas: usize,
    /// What a client does that ends its request at the replica too: `reset` (it was reset or killed with bytes unread; one that
    /// only half-closed gets its response), `close` (any close, a half-close too, as in nginx), or `off` (the request runs
    /// to its end)
    #[arg(long, value_name = "WHAT", default_value = "reset", value_parser = values::abort_on)]
    pub abort_on_client_close: AbortOn,
    /// After a signal to stop, requests are served for this long yet: /readyz answers 503 and each response ends its
    /// connection, so that those who balance over this balancer leave it first
    #[arg(id = "shutdown_delay", long = "shutdown-delay", value_name = "DURATION", default_value = "0",
        value_parser = units::parser(Unit::Duration, 0..=3_600_000))]
    pub shutdown_delay_ms: u64,
    /// A new process that is not ready to replace this one (SIGUSR2) within this is ended
    #[arg(id = "upgrade_timeout", long = "upgrade-timeout", value_name = "DURATION", default_value = "1m",
        value_parser = units::parser(Unit::Duration, 1..=3_600_000))]
    pub upgrade_timeout_ms: u64,
    #[command(flatten)]
    pub service: Limits,
}

impl Args for Limits {
    fn augment_args(command: Command) -> Command {
        command.args(Limits::ALL.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Limits::augment_args(command)
    }
}

fn arg(limit: &Limit) -> Arg {
    Arg::new(limit.key())
        .long(limit.key().replace('_', "-"))
        .help_heading(HEADING)
        .help(limit.help.trim())
        .value_name(units::value_name(limit.unit))
        .default_value(units::show(limit.unit, (limit.read)(&Limits::DEFAULT)))
        .value_parser(units::parser(limit.unit, limit.range.clone()))
}

impl FromArgMatches for Limits {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut limits = Limits::DEFAULT;
        limits.update_from_arg_matches(matches)?;
        Ok(limits)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for limit in Limits::ALL {
            if let Some(value) = matches.get_one(limit.key()) {
                (limit.write)(self, *value);
            }
        }
        Ok(())
    }
}
