//! `[services.NAME]`, `[listeners.NAME]` and `[[routes]]`: from what a file sets in them to listeners, services and routes that
//! refer to each other by name. The flat settings are the defaults of each. Where a file has none of them, the flat settings
//! are one listener and one service, both called `default`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use clap::{Arg, ArgMatches, Command, FromArgMatches};

use super::args::{self, Cli, CliSubcommand};
use super::file::{self, FileSettings, NamedSettings, Place, Setting};
use super::sources::{SourcedSetting, Sources};
use super::tables::{
    CERTIFICATES, LISTENER, ListenerSettings, NamedTarget, RouteSettings, is_of_listener, is_of_service,
    listener_command, route_command,
};
use super::{Config, acme, error, resolve};
use crate::core::snapshot::{DEFAULT_SERVICE, Mode};

/// The name of what the flat settings describe.
pub const DEFAULT: &str = DEFAULT_SERVICE;
/// Settings that are the only listener's, and no defaults of those that are named.
const OF_ONE_LISTENER: [&str; 4] = ["listen", CERTIFICATES, "tls-acme", "tls-default"];

/// Listeners, services and routes, by name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    pub listeners: Vec<NamedListener>,
    pub services: Vec<NamedService>,
    pub routes: Vec<NamedRoute>,
}

#[derive(Clone, Debug)]
pub struct NamedListener {
    pub name: String,
    pub place: Place,
    pub settings: ListenerSettings,
    pub places: TlsPlaces,
}

/// What a message calls the settings that name files of a listener: a line of the file, or a flag.
#[derive(Clone, Debug)]
pub struct TlsPlaces {
    pub certificates: String,
    pub client_ca: String,
    pub crl: String,
}

#[derive(Clone, Debug)]
pub struct NamedService {
    pub name: String,
    pub place: Place,
    /// What of it belongs to a service is this service's.
    pub config: Box<Config>,
}

#[derive(Clone, Debug)]
pub struct NamedRoute {
    pub title: String,
    pub place: Place,
    pub settings: RouteSettings,
}

/// Makes [`Named`] of a file's settings; mistakes are collected.
pub struct NamedResolver<'a> {
    pub path: &'a Path,
    pub file: &'a FileSettings,
    /// The flat settings, and what they are as values of flags.
    pub config: &'a Config,
    pub sources: &'a Sources,
    pub matches: &'a ArgMatches,
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

impl NamedResolver<'_> {
    pub fn named(&mut self) -> Named {
        let FileSettings { listeners, services, routes, .. } = self.file;
        let mut named = Named::of_flat(self.config, self.sources);
        if !services.is_empty() {
            named.services = services.iter().filter_map(|settings| self.service(settings)).collect();
        }
        if let Some(first) = listeners.first() {
            self.errors.extend(self.listen_beside(first));
            self.errors.extend(self.certificates_beside(first));
            named.listeners = listeners.iter().filter_map(|settings| self.listener(settings)).collect();
        }
        named.routes = routes.iter().filter_map(|settings| self.route(settings)).collect();
        if self.errors.is_empty() {
            self.errors = named.complete().into_iter().map(|(place, why)| self.line(place, &why)).collect();
            let unused = named.unused().into_iter().map(|(place, why)| self.line(place, &why));
            self.warnings.extend(unused.collect::<Vec<_>>());
        }
        named
    }

    /// `--listen` is the address of the only listener: it is a default of none that is named.
    fn listen_beside(&self, listener: &NamedSettings) -> Option<String> {
        let listen = self.sources.set().iter().find(|setting| setting.long == "listen")?;
        let (name, address, title) = (listen.name(), self.config.listen, &listener.title);
        Some(format!(
            "{name} {address} has no effect beside [{title}], whose bind wins: leave it out, or make it a listener too"
        ))
    }

    /// Nor are `--tls` and `--tls-default`: no listener becomes one of TLS by a setting that stands elsewhere.
    fn certificates_beside(&self, listener: &NamedSettings) -> Option<String> {
        let has_name = |setting: &&SourcedSetting| ["tls", "tls-acme", "tls-default"].contains(&setting.long.as_str());
        let (name, title) = (self.sources.set().iter().find(has_name)?.name(), &listener.title);
        Some(format!("{name} has no effect beside [{title}]: write it into the table of a listener, [{title}.tls]"))
    }

    /// The flat settings as defaults, then the service's own.
    fn service(&mut self, settings: &NamedSettings) -> Option<NamedService> {
        let command = args::command();
        let run = command.find_subcommand("run")?;
        let flat = flat_values(run, self.matches, is_of_service);
        let with_defaults = file::apply(file::apply(run.clone(), &flat), &settings.settings);
        let command = command.mut_subcommand("run", |_| with_defaults);
        let parsed = command.clone().try_get_matches_from(["ringway", "run"]);
        let matches = self.checked(settings, parsed.map_err(|wrong| error::one_line(&wrong)))?;
        let run = self.checked(settings, run_args(&matches))?;
        let used = matches.subcommand_matches("run")?;
        let own = Some((self.path, &settings.settings[..]));
        let sources = Sources::read(command.find_subcommand("run")?, used, std::iter::empty(), own);
        let resolved = run.into_service(&sources, &settings.name);
        let mut config = self.checked(settings, resolved)?;
        self.warnings.append(&mut config.warnings);
        Some(NamedService { name: settings.name.clone(), place: settings.place, config: config.into() })
    }

    fn listener(&mut self, settings: &NamedSettings) -> Option<NamedListener> {
        let flat = args::command();
        let flat = flat_values(flat.find_subcommand("run")?, self.matches, |arg| {
            let id = arg.get_id().as_str();
            is_of_listener(arg) && id != "program" && !OF_ONE_LISTENER.contains(&id)
        });
        let known = listener_command();
        let is_known = |setting: &&Setting| known.get_arguments().any(|arg| arg.get_id() == setting.id.as_str());
        let command = file::apply(file::apply(known.clone(), flat.iter().filter(is_known)), &settings.settings);
        let parsed = command.try_get_matches_from([LISTENER]);
        let parsed = parsed.and_then(|matches| ListenerSettings::from_arg_matches(&matches));
        let mut own = self.checked(settings, parsed.map_err(|wrong| error::one_line(&wrong)))?;
        self.checked(settings, resolve::check_limits(&own.limits))?;
        self.checked(settings, resolve::check_admin_on(&self.config.admin, &own))?;
        self.checked(settings, resolve::check_tls(&own.tls, own.mode))?;
        self.checked(settings, acme::resolve(&mut own.tls, &self.config.acme))?;
        let places = TlsPlaces::new(|id, key| {
            let setting = settings.settings.iter().find(|setting| setting.id == id);
            let at = setting.map_or(settings.place, |setting| setting.place);
            self.line(at, &format!("{}.tls.{key}", settings.title))
        });
        Some(NamedListener { name: settings.name.clone(), place: settings.place, settings: own, places })
    }

    fn route(&mut self, settings: &NamedSettings) -> Option<NamedRoute> {
        let command = file::apply(route_command(), &settings.settings);
        let parsed = command.try_get_matches_from(["route"]);
        let parsed = parsed.and_then(|matches| RouteSettings::from_arg_matches(&matches));
        let own = self.checked(settings, parsed.map_err(|wrong| error::one_line(&wrong)))?;
        Some(NamedRoute { title: settings.title.clone(), place: settings.place, settings: own })
    }

    /// A mistake is noted, at the first setting of the table that the message names.
    fn checked<T>(&mut self, settings: &NamedSettings, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|why| {
                let is_named = |setting: &&Setting| why.contains(&format!("--{}", setting.id.replace('_', "-")));
                let place = settings.settings.iter().find(is_named).map_or(settings.place, |setting| setting.place);
                let line = self.line(place, &format!("{}: {why}", settings.title));
                self.errors.push(line);
            })
            .ok()
    }

    fn line(&self, Place { line, column }: Place, why: &str) -> String {
        error::visible(&format!("{}:{line}:{column}: {why}", self.path.display()))
    }
}

fn run_args(matches: &ArgMatches) -> Result<args::RunArgs, String> {
    match Cli::from_arg_matches(matches).map(|cli| cli.subcommand) {
        Ok(CliSubcommand::Run(run)) => Ok(*run),
        Ok(_) => Err("the settings are not those of run".into()),
        Err(wrong) => Err(error::one_line(&wrong)),
    }
}

/// The flat settings that are defaults of a table, as values of its flags.
fn flat_values(run: &Command, matches: &ArgMatches, is_of_table: impl Fn(&Arg) -> bool) -> Vec<Setting> {
    let setting = |arg: &Arg| {
        let id = arg.get_id().as_str();
        let values = matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect();
        Some(Setting { id: id.into(), place: Place::default(), values })
    };
    run.get_arguments().filter(|arg| is_of_table(arg)).filter_map(setting).collect()
}

/// A mistake, and the table that it is in.
type NamedFault = (Place, String);

impl Named {
    /// What the flat settings are by themselves.
    pub fn of_flat(config: &Config, sources: &Sources) -> Named {
        let listener = ListenerSettings {
            bind: vec![config.listen],
            mode: config.mode,
            service: None,
            redirect_to_https: false,
            tls: config.tls.clone(),
            proxy: config.proxy.clone(),
            forwarded: config.forwarded.clone(),
            limits: config.limits.service.clone(),
        };
        let place = Place::default();
        let places = TlsPlaces::new(|id, _| sources.name_of(id));
        let config = Config { named: Named::default(), ..config.clone() };
        Named {
            listeners: vec![NamedListener { name: DEFAULT.into(), place, settings: listener, places }],
            services: vec![NamedService { name: DEFAULT.into(), place, config: config.into() }],
            routes: Vec::new(),
        }
    }

    /// Nothing has a name of its own.
    pub fn is_flat(&self) -> bool {
        let is_default = |name: &String| name == DEFAULT;
        self.routes.is_empty()
            && self.listeners.iter().map(|listener| &listener.name).all(is_default)
            && self.services.iter().map(|service| &service.name).all(is_default)
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let Named { listeners, services, routes } = self;
        let listener = |listener: &NamedListener| {
            let bind: Vec<String> = listener.settings.bind.iter().map(SocketAddr::to_string).collect();
            format!("{} on {}", listener.name, bind.join(" and "))
        };
        let addresses: Vec<String> = listeners.iter().map(listener).collect();
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        let (addresses, names) = (addresses.join("; "), names.join(", "));
        let counts = [(listeners.len(), "listener"), (services.len(), "service"), (routes.len(), "route")];
        let [listeners, services, routes] = counts.map(|(n, of)| format!("{n} {of}{}", if n == 1 { "" } else { "s" }));
        format!("{listeners} ({addresses}), {services} ({names}), {routes}")
    }

    /// Of each service.
    pub fn modes(&self) -> BTreeMap<String, Mode> {
        self.services.iter().map(|service| (service.name.clone(), service.config.mode.of_service())).collect()
    }

    /// Fills in the services of listeners that need not name one, and finds what contradicts.
    pub fn complete(&mut self) -> Vec<NamedFault> {
        let mut faults = Vec::new();
        let modes = self.modes();
        for listener in &mut self.listeners {
            faults.extend(listener.complete(&modes, &self.routes).map(|why| listener.fault(&why)));
        }
        faults.extend(self.addresses_given_twice());
        faults.extend(self.names_given_otherwise());
        faults.extend(self.replicas_given_twice());
        faults.extend(self.sources_given_twice());
        let listeners: BTreeMap<&str, Mode> =
            self.listeners.iter().map(|listener| (listener.name.as_str(), listener.settings.mode)).collect();
        let check = |route: &NamedRoute| {
            let why = route.fault(&modes, &listeners)?;
            Some((route.place, format!("{}: {why}", route.title)))
        };
        faults.extend(self.routes.iter().filter_map(check));
        faults
    }

    /// Services and routes that get no request.
    fn unused(&self) -> Vec<NamedFault> {
        let default_of = self.listeners.iter().filter_map(|listener| listener.settings.service.as_deref());
        let targets = self.routes.iter().filter_map(|route| route.settings.target());
        let used: BTreeSet<&str> = default_of.chain(targets.flat_map(NamedTarget::services)).collect();
        // The service of the flat form has no place in the file.
        let is_written = |service: &&NamedService| service.place != Place::default();
        let services = self.services.iter().filter(is_written).filter(|service| !used.contains(&*service.name));
        let services = services
            .map(|service| (service.place, format!("services.{}: no listener and no route leads to it", service.name)));
        let repeats = self.routes.iter().enumerate().filter_map(|(at, route)| {
            let earlier =
                self.routes.iter().take(at).find(|earlier| earlier.settings.is_for_the_same_as(&route.settings))?;
            Some((
                route.place,
                format!("{}: it has no effect behind {}, which is for the same", route.title, earlier.title),
            ))
        });
        services.chain(repeats).collect()
    }

    fn addresses_given_twice(&self) -> Vec<NamedFault> {
        let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
        let mut faults = Vec::new();
        for listener in &self.listeners {
            for address in &listener.settings.bind {
                if let Some(other) = seen.insert(*address, &listener.name) {
                    faults.push(listener.fault(&format!("bind: {address} is in listeners.{other} already")));
                }
            }
        }
        faults
    }

    /// A certificate is called by its first name.
    fn names_given_otherwise(&self) -> Vec<NamedFault> {
        let fault = |(at, listener): (usize, &NamedListener)| {
            let other = self.listeners.iter().take(at).find(|other| listener.has_names_beside(other))?;
            let (first, other) = (listener.settings.tls.acme.first()?, &other.name);
            Some(listener.fault(&format!(
                "tls.acme: {first} is the first name in listeners.{other}.tls.acme too, whose other names are not the same: \
                 give both the same names, or begin with another one"
            )))
        };
        self.listeners.iter().enumerate().filter_map(fault).collect()
    }

    /// A replica is known by its name alone: in the log, in metrics, to the admin API.
    fn replicas_given_twice(&self) -> Vec<NamedFault> {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let mut faults = Vec::new();
        for service in &self.services {
            for replica in &service.config.fixed_replicas {
                let other = seen.insert(&replica.name, &service.name);
                if let Some(other) = other.filter(|other| *other != service.name) {
                    let why = format!(
                        "services.{}: replica {} is in services.{other} too: give one of them a name of its own, \
                         NAME=HOST:PORT",
                        service.name, replica.name
                    );
                    faults.push((service.place, why));
                }
            }
        }
        faults
    }
}

impl Named {
    /// Two services with one list would have replicas of the same names.
    fn sources_given_twice(&self) -> Vec<NamedFault> {
        let found = self.services.iter().filter(|service| service.config.runtime().source().is_some());
        let found: Vec<&NamedService> = found.collect();
        let question = |service: &NamedService| (service.config.runtime(), service.config.source.clone());
        let repeats = found.iter().enumerate().filter_map(|(at, service)| {
            let earlier = found.iter().take(at).find(|earlier| question(earlier) == question(service))?;
            let why = format!(
                "services.{}: its source lists the replicas of services.{} too: give one of them source.name_prefix",
                service.name, earlier.name
            );
            Some((service.place, why))
        });
        repeats.collect()
    }
}

impl TlsPlaces {
    /// `name` is told the flag, and its key in a table.
    fn new(name: impl Fn(&str, &str) -> String) -> TlsPlaces {
        TlsPlaces {
            certificates: name(CERTIFICATES, "certificates"),
            client_ca: name("tls-client-ca", "client_ca"),
            crl: name("tls-crl", "crl"),
        }
    }
}

impl NamedListener {
    fn fault(&self, why: &str) -> NamedFault {
        (self.place, format!("listeners.{}: {why}", self.name))
    }

    /// The service that it needs, where only one can be meant. Otherwise what is wrong.
    fn complete(&mut self, modes: &BTreeMap<String, Mode>, routes: &[NamedRoute]) -> Option<String> {
        let ListenerSettings { bind, mode, service, redirect_to_https, .. } = &mut self.settings;
        if bind.is_empty() {
            return Some("bind is missing: want one address or more, as [\"0.0.0.0:80\"]".into());
        }
        let mut fit = modes.iter().filter(|(_, its)| **its == mode.of_service()).map(|(name, _)| name);
        let has_routes = routes.iter().any(|route| route.settings.mode(modes) == *mode);
        match (service.as_ref(), &mode) {
            (Some(name), mode) => return wrong_service(name, mode.of_service(), modes),
            (None, Mode::Http) if *redirect_to_https => return None,
            // Where there are routes, one that none of them is for leads nowhere.
            (None, _) if has_routes => return None,
            (None, _) => {}
        }
        match (fit.next(), fit.next()) {
            (Some(only), None) => {
                *service = Some(only.clone());
                None
            }
            (None, _) => Some(format!("no service has mode {}", mode.of_service().name())),
            (Some(_), Some(_)) => Some("service is missing: say which one its clients want, or add [[routes]]".into()),
        }
    }
}

impl NamedRoute {
    fn fault(&self, modes: &BTreeMap<String, Mode>, listeners: &BTreeMap<&str, Mode>) -> Option<String> {
        let own = &self.settings.listeners;
        if let Some(unknown) = own.iter().find(|name| !listeners.contains_key(name.as_str())) {
            let names: Vec<&str> = listeners.keys().copied().collect();
            return Some(format!("listeners: there is no listener {unknown}; there are {}", names.join(", ")));
        }
        let mode = self.settings.mode(modes);
        let wrong = match self.settings.target() {
            None => Some("want exactly one of service, split and redirect".into()),
            Some(NamedTarget::Service(name)) => wrong_service(name, mode.of_service(), modes),
            Some(NamedTarget::Split(split)) => {
                let wrong = split.iter().find_map(|(name, _)| wrong_service(name, mode.of_service(), modes));
                let has_weight = split.iter().any(|(_, weight)| *weight > 0);
                wrong.or_else(|| (!has_weight).then(|| "split: want a weight above 0".into()))
            }
            Some(NamedTarget::Redirect(_)) => None,
        };
        let mut other = own.iter().filter_map(|name| Some((name, *listeners.get(name.as_str())?)));
        let other = other.find(|(_, its)| *its != mode);
        let is_led_to = listeners.values().any(|its| *its == mode);
        match (wrong, other, mode) {
            (Some(wrong), ..) => Some(wrong),
            (None, Some((name, its)), _) => {
                let (its, mode) = (its.name(), mode.name());
                Some(format!("listeners: {name} has mode {its}: want those with mode {mode}, as the service asks for"))
            }
            (None, None, Mode::TlsPassthrough) if !is_led_to => Some(
                "its service has mode tcp, and no listener has mode tls-passthrough: those with mode tcp have no routes"
                    .into(),
            ),
            (None, None, Mode::Http) if !is_led_to => Some("no listener has mode http: no request comes to it".into()),
            (None, None, Mode::TlsPassthrough) if !self.settings.is_by_host_alone() => {
                Some("its service has mode tcp: TLS that passes through has no path and no method, leave them out".into())
            }
            (None, None, _) => None,
        }
    }
}

fn wrong_service(name: &str, mode: Mode, modes: &BTreeMap<String, Mode>) -> Option<String> {
    match modes.get(name) {
        None => {
            let names: Vec<&str> = modes.keys().map(String::as_str).collect();
            Some(format!("there is no service {name}; there are {}", names.join(", ")))
        }
        Some(its) if *its != mode => {
            Some(format!("service {name} has mode {}: want one with mode {}", its.name(), mode.name()))
        }
        Some(_) => None,
    }
}
