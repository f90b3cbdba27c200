//! What a query string asks for: the service that is meant, dry runs. Pure.

use std::collections::BTreeSet;

use axum::extract::Query;
use axum::http::Uri;
use utoipa::IntoParams;

use super::DryRun;
use crate::control::questions;
use crate::core::snapshot::{ServiceId, Snapshot};

/// Of two of them one would be ignored.
const ONCE: [&str; 3] = ["service", "dry_run", "key"];

/// For the API's description only: the queries are read below, so that a mistake is named.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "described, never made")]
pub struct ServiceParameter {
    /// The service that is meant
    #[param(nullable = false)]
    service: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "described, never made")]
pub struct DryRunParameter {
    /// 1 or true: the answer says what would be
    #[param(pattern = "^(0|1|true|false)$", nullable = false)]
    dry_run: Option<String>,
}

/// The parameters of a query string, decoded.
pub fn query(uri: &Uri) -> Result<Vec<(String, String)>, String> {
    let Query(pairs): Query<Vec<(String, String)>> =
        Query::try_from_uri(uri).map_err(|error| format!("the query cannot be read: {error}"))?;
    let mut names = BTreeSet::new();
    let twice = pairs.iter().find(|(name, _)| ONCE.contains(&name.as_str()) && !names.insert(name));
    twice.map_or(Ok(()), |(name, _)| Err(format!("{name} is given twice")))?;
    Ok(pairs)
}

/// A query without parameters.
pub fn none(uri: &Uri) -> Result<(), String> {
    questions::known(&query(uri)?, &[])
}

/// `?service=NAME`, and nothing else.
pub fn service(uri: &Uri, snapshot: &Snapshot) -> Result<ServiceId, String> {
    let mut query = query(uri)?;
    let service = take_service(&mut query, snapshot)?;
    questions::known(&query, &["service"])?;
    Ok(service)
}

/// The same, where `None` means all services.
pub fn any_service(uri: &Uri, snapshot: &Snapshot) -> Result<Option<ServiceId>, String> {
    if query(uri)?.is_empty() { Ok(None) } else { service(uri, snapshot).map(Some) }
}

/// Takes `service=NAME` out of a query. Without it, the only service is meant.
pub fn take_service(query: &mut Vec<(String, String)>, snapshot: &Snapshot) -> Result<ServiceId, String> {
    let services = (0..).map(ServiceId).zip(&snapshot.services).filter(|(_, service)| service.is_listed());
    let services: Vec<(ServiceId, &str)> = services.map(|(id, service)| (id, &*service.name)).collect();
    let names = || services.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    let named = query.iter().position(|(parameter, _)| parameter == "service").map(|at| query.remove(at).1);
    match (named, &services[..]) {
        (Some(name), _) => services
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| *id)
            .ok_or_else(|| format!("service is {name:?}: there is no such service; there are {}", names())),
        (None, [(only, _)]) => Ok(*only),
        (None, _) => Err(format!("service is missing: say which one, as ?service=NAME; there are {}", names())),
    }
}

/// `?service=NAME` and `?dry_run=1`, and nothing else.
pub fn change_target(uri: &Uri, snapshot: &Snapshot) -> Result<(ServiceId, DryRun), String> {
    let mut query = query(uri)?;
    let service = take_service(&mut query, snapshot)?;
    Ok((service, dry_run(&query, &["dry_run", "service"])?))
}

/// `?dry_run=1`, in a query that may have `known` parameters.
pub fn dry_run(query: &[(String, String)], known: &[&str]) -> Result<DryRun, String> {
    questions::known(query, known)?;
    match query.last().map(|(_, value)| value.as_str()) {
        None | Some("0" | "false") => Ok(DryRun::No),
        Some("1" | "true") => Ok(DryRun::Yes),
        Some(other) => Err(format!("dry_run is {other:?}: it is 1 or 0")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::ring::{Ring, RingKind};
    use crate::core::snapshot::{INTERNAL_SERVICE, KeyPolicy, Mode, Service};

    fn snapshot(names: &[&str]) -> Snapshot {
        let service = |name: &&str| Service {
            name: (*name).into(),
            mode: Mode::Http,
            policy: Default::default(),
            key: KeyPolicy::Request,
            limits: Arc::default(),
            send_proxy: None,
            tls: None,
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            replicas: Vec::new(),
            ring: Arc::new(Ring::build(RingKind::Ketama, &[])),
        };
        Snapshot { services: names.iter().map(service).map(Arc::new).collect(), ..Snapshot::empty(1) }
    }

    #[test]
    fn a_change_takes_service_and_dry_run() {
        let snapshot = snapshot(&["shop", INTERNAL_SERVICE]);
        let target = |query: &str| change_target(&format!("/rm?{query}").parse().unwrap(), &snapshot);
        let shop = ServiceId(0);
        assert_eq!(target(""), Ok((shop, DryRun::No)));
        assert_eq!(target("dry_run=1"), Ok((shop, DryRun::Yes)));
        assert_eq!(target("service=shop&dry_run=0"), Ok((shop, DryRun::No)));
        assert_eq!(target("dryrun=1"), Err("\"dryrun\" is no parameter here: it takes dry_run and service".into()));
        assert_eq!(target("dry_run=1&dry_run=0"), Err("dry_run is given twice".into()));
        assert_eq!(target("service=shop&service=blog"), Err("service is given twice".into()));
        assert_eq!(target("dry_run"), Err("dry_run is \"\": it is 1 or 0".into()));
    }

    #[test]
    fn which_service_is_meant_must_be_clear() {
        let snapshot = snapshot(&["shop", INTERNAL_SERVICE, "blog"]);
        let target = |query: &str| change_target(&format!("/rm?{query}").parse().unwrap(), &snapshot);
        assert_eq!(target("service=blog"), Ok((ServiceId(2), DryRun::No)));
        assert_eq!(target(""), Err("service is missing: say which one, as ?service=NAME; there are shop, blog".into()));
        let internal = format!("service={INTERNAL_SERVICE}");
        for query in ["service=nowhere", &internal] {
            assert!(target(query).is_err_and(|why| why.ends_with("there is no such service; there are shop, blog")));
        }
    }

    #[test]
    fn a_removed_service_is_none_of_those_that_may_be_meant() {
        let mut snapshot = snapshot(&["shop", INTERNAL_SERVICE, "blog"]);
        let removed = Service { is_removed: true, ..Service::clone(&snapshot.services[2]) };
        snapshot.services[2] = Arc::new(removed);
        let target = |query: &str| change_target(&format!("/rm?{query}").parse().unwrap(), &snapshot);
        assert_eq!(target(""), Ok((ServiceId(0), DryRun::No)));
        assert!(target("service=blog").is_err_and(|why| why.ends_with("there is no such service; there are shop")));
    }

    #[test]
    fn a_filter_by_service_may_be_left_out() {
        let snapshot = snapshot(&["shop", "blog"]);
        let filter = |query: &str| any_service(&format!("/replicas{query}").parse().unwrap(), &snapshot);
        assert_eq!((filter(""), filter("?service=blog")), (Ok(None), Ok(Some(ServiceId(1)))));
        assert!(filter("?service=nowhere").is_err() && filter("?name=x").is_err());
    }
}
