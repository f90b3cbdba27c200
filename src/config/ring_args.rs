//! The flags of `ringway ring`, which describes a ring instead of balancing by it.

use clap::builder::RangedU64ValueParser as Number;
use clap::{Args, Subcommand};

use crate::core::ring::{Member, RingKind};
use crate::experiment::{OutputFormat, QueryKind, RingQuery};
use crate::settings::values;

#[derive(Args)]
pub struct RingArgs {
    #[command(subcommand)]
    subcommand: RingSubcommand,
}

#[derive(Subcommand)]
enum RingSubcommand {
    /// Each replica's share of all keys, exactly
    Show {
        #[command(flatten)]
        layout: LayoutArgs,
    },
    /// Where a key goes and why: hash, point, replica, fallbacks
    Explain {
        /// The routing key: the value of --hash-key. A number, with --ring exercise, is a request's number
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        layout: LayoutArgs,
    },
    /// Which keys move, and to which replica, when replicas leave or join
    WhatIf {
        /// A replica that leaves; repeat it for several
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
        /// A replica that joins, as NAME or NAME@WEIGHT; repeat it for several
        #[arg(long, value_name = "NAME@WEIGHT", value_parser = values::member)]
        add: Vec<Member>,
        #[command(flatten)]
        layout: LayoutArgs,
    },
    /// Flaws: slots that no key reaches, replicas without keys, collisions, skew. Exit status 1 when there are any
    Lint {
        #[command(flatten)]
        layout: LayoutArgs,
    },
}

/// The ring that is examined.
#[derive(Args)]
struct LayoutArgs {
    /// A ring of so many replicas, called server1, server2 and so on
    #[arg(long, value_name = "N", default_value = "3", value_parser = Number::<usize>::new().range(1..=10_000))]
    replicas: usize,
    /// A ring of these replicas instead, each as NAME or NAME@WEIGHT; repeat it for several
    #[arg(long, value_name = "NAME@WEIGHT", num_args = 1.., value_delimiter = ',', value_parser = values::member)]
    replica: Vec<Member>,
    /// How replicas are laid out: `ketama`, `maglev` or `exercise`
    #[arg(long, value_name = "RING", default_value = "ketama", value_parser = values::ring)]
    ring: RingKind,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl RingArgs {
    pub fn into_query(self) -> RingQuery {
        match self.subcommand {
            RingSubcommand::Show { layout } => layout.into_query(QueryKind::Show),
            RingSubcommand::Explain { key, layout } => layout.into_query(QueryKind::Explain { key }),
            RingSubcommand::WhatIf { remove, add, layout } => layout.into_query(QueryKind::WhatIf { remove, add }),
            RingSubcommand::Lint { layout } => layout.into_query(QueryKind::Lint),
        }
    }
}

impl LayoutArgs {
    fn into_query(self, kind: QueryKind) -> RingQuery {
        let numbered = || (1..=self.replicas).map(|i| Member::new(format!("server{i}"), 1)).collect();
        let members = if self.replica.is_empty() { numbered() } else { self.replica };
        let format = if self.json { OutputFormat::Json } else { OutputFormat::Text };
        RingQuery { kind, ring: self.ring, members, format }
    }
}
