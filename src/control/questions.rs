//! The admin API's read-only queries of the ring: its shares, the replica of a key, what a change would move. Pure: a
//! service of a snapshot and a query string in, JSON out. The answers are those of `ringway ring`.

use serde::Serialize;

use super::registry::Rejection;
use super::wire;
use crate::core::balance::BalancePolicy;
use crate::core::ring::{Member, report};
use crate::core::snapshot::Service;

/// The parameters of a query string, decoded.
pub type Query = [(String, String)];

/// Replicas that one what-if adds and removes: the ring that it asks about is built for it.
const NAMES_LIMIT: usize = 100;

/// `GET /ring`
pub fn ring(service: &Service, query: &Query) -> Result<String, Rejection> {
    known(query, &[]).map_err(Rejection::bad_request)?;
    Ok(to_json(&report::show(service.ring.kind(), &members(service))))
}

/// `GET /explain?key=K`
pub fn explain(service: &Service, query: &Query) -> Result<String, Rejection> {
    known(query, &["key"]).map_err(Rejection::bad_request)?;
    let missing = || Rejection::bad_request("key is missing: ask /explain?key=KEY".into());
    let (_, key) = query.first().ok_or_else(missing)?;
    if service.policy.name() != BalancePolicy::Hash.name() {
        let (name, policy) = (&service.name, service.policy.name());
        let why = format!("no key decides where requests go: service {name} has the policy {policy}");
        return Err(Rejection::bad_request(why));
    }
    let explained = report::explain(service.ring.kind(), &members(service), key);
    let empty = || Rejection::not_found("there is no replica on the ring: no key goes anywhere".into());
    Ok(to_json(&explained.ok_or_else(empty)?))
}

/// `GET /what-if?remove=NAME`, also `add=NAME`, each repeated or with several names between commas.
pub fn what_if(service: &Service, query: &Query) -> Result<String, Rejection> {
    changed(service, query).map_err(Rejection::bad_request)
}

fn changed(service: &Service, query: &Query) -> Result<String, String> {
    known(query, &["remove", "add"])?;
    let named: usize = query.iter().map(|(_, names)| names.split(',').count()).sum();
    if named > NAMES_LIMIT {
        return Err(format!("remove and add name {named} replicas: {NAMES_LIMIT} is the most of one question"));
    }
    let before = members(service);
    let mut after = before.clone();
    for (parameter, names) in query {
        for name in names.split(',') {
            change(&mut after, parameter, name)?;
        }
    }
    if query.is_empty() {
        return Err("remove is missing: ask /what-if?remove=NAME or /what-if?add=NAME".into());
    }
    Ok(to_json(&report::what_if(service.ring.kind(), &before, &after)))
}

fn change(after: &mut Vec<Member>, parameter: &str, name: &str) -> Result<(), String> {
    let at = after.iter().position(|member| member.name == name);
    match (parameter, at) {
        ("remove", Some(at)) => drop(after.remove(at)),
        ("remove", None) => return Err(format!("remove is {name:?}: there is no such replica")),
        (_, Some(_)) => return Err(format!("add is {name:?}: that name is taken")),
        (_, None) if name.is_empty() => return Err("add is \"\": a name is empty".into()),
        (_, None) => after.push(Member::new(name, 1)),
    }
    Ok(())
}

/// The ring's members: a replica that drains is none.
fn members(service: &Service) -> Vec<Member> {
    let on_ring = service.replicas.iter().take(service.ring.members());
    on_ring.map(|replica| Member::new(&*replica.name, replica.weight)).collect()
}

pub fn known(query: &Query, parameters: &[&str]) -> Result<(), String> {
    match query.iter().find(|(name, _)| !parameters.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) if parameters.is_empty() => Err(format!("{name:?} is no parameter here: none is taken")),
        Some((name, _)) => Err(format!("{name:?} is no parameter here: it takes {}", parameters.join(" and "))),
    }
}

fn to_json(report: &impl Serialize) -> String {
    wire::successful(report)
}
