//! The flags of the verbs that study a ring rather than balance with it: `ringway ring` and `ringway experiment`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser as Number;
use clap::{Args, Subcommand};

use super::values;
use crate::core::ring::{Member, RingKind};
use crate::experiment::{self, Ask, Name, Question, RuntimeChoice};

#[derive(Args)]
pub struct Ring {
    #[command(subcommand)]
    ask: RingAsk,
}

#[derive(Subcommand)]
enum RingAsk {
    /// Each replica's share of all keys, exactly
    Show {
        #[command(flatten)]
        of: Of,
    },
    /// Where a key goes and why: hash, point, replica, fallbacks
    Explain {
        /// The routing key: the value of --hash-key. A number, with --ring exercise, is a request's number
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        of: Of,
    },
    /// What moves, and to whom, when replicas leave or join
    WhatIf {
        /// A replica that leaves; repeat it for several
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
        /// A replica that joins, as NAME or NAME@WEIGHT; repeat it for several
        #[arg(long, value_name = "NAME@WEIGHT", value_parser = values::member)]
        add: Vec<Member>,
        #[command(flatten)]
        of: Of,
    },
    /// Flaws: slots that no key reaches, replicas without keys, collisions, skew. Exit status 1 when there are any
    Lint {
        #[command(flatten)]
        of: Of,
    },
}

/// The ring that is asked about.
#[derive(Args)]
struct Of {
    /// A ring of so many replicas, called server1, server2 and so on
    #[arg(long, value_name = "N", default_value = "3", value_parser = Number::<usize>::new().range(1..=10_000))]
    replicas: usize,
    /// A ring of these replicas instead, each as NAME or NAME@WEIGHT; repeat it for several
    #[arg(long, value_name = "NAME@WEIGHT", num_args = 1.., value_delimiter = ',', value_parser = values::member)]
    replica: Vec<Member>,
    /// How replicas are laid out: `ketama` or `exercise`
    #[arg(long, value_name = "RING", default_value = "ketama", value_parser = values::ring)]
    ring: RingKind,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Ring {
    pub fn settle(self) -> Question {
        match self.ask {
            RingAsk::Show { of } => of.settle(Ask::Show),
            RingAsk::Explain { key, of } => of.settle(Ask::Explain { key }),
            RingAsk::WhatIf { remove, add, of } => of.settle(Ask::WhatIf { remove, add }),
            RingAsk::Lint { of } => of.settle(Ask::Lint),
        }
    }
}

impl Of {
    fn settle(self, ask: Ask) -> Question {
        let numbered = || (1..=self.replicas).map(|i| Member::new(format!("server{i}"), 1)).collect();
        let members = if self.replica.is_empty() { numbered() } else { self.replica };
        Question { ask, kind: self.ring, members, json: self.json }
    }
}

#[derive(Args)]
pub struct Experiment {
    /// Which one: spread, scale, fault, fault-again, hashes, endpoints, or all of them
    #[arg(value_name = "NAME", value_enum, hide_possible_values = true)]
    name: Name,
    /// Where the pictures, tables and texts go
    #[arg(long, value_name = "DIR", default_value = "target/experiments")]
    out: PathBuf,
    /// What runs the replicas: `process` or `docker`
    #[arg(long, value_enum, value_name = "RUNTIME", default_value = "process", hide_possible_values = true)]
    runtime: RuntimeChoice,
    /// The image of each replica, with --runtime docker
    #[arg(long, value_name = "IMAGE", default_value = "ringway")]
    docker_image: String,
    /// Requests of spread, and of each step of scale
    #[arg(long, value_name = "N", default_value = "10000",
        value_parser = Number::<u32>::new().range(100..=1_000_000))]
    requests: u32,
    /// The largest number of replicas in scale
    #[arg(long, value_name = "N", default_value = "6", value_parser = Number::<usize>::new().range(2..=64))]
    to: usize,
}

impl Experiment {
    pub fn settle(self) -> experiment::Settings {
        experiment::Settings {
            name: self.name,
            out: self.out,
            runtime: self.runtime,
            docker_image: self.docker_image,
            requests: self.requests,
            to: self.to,
        }
    }
}
