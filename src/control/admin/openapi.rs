//! `GET /openapi.json`: the API described, made by utoipa from the handlers and from the types that they read and write.
//! What every call has in common (errors, the token), and what only this balancer knows (its services, whether it asks for
//! a token), is added here.

use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Info, OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{OpenApi, openapi::Required};

use super::{calls, reads};
use crate::control::admin_access::{LIVEZ, PAGE, READYZ};
use crate::control::wire::ErrorBody;

/// The name of the security scheme.
const TOKEN: &str = "token";

/// Every handler.
#[derive(OpenApi)]
#[openapi(
    paths(
        reads::document,
        reads::live,
        calls::rep,
        calls::add,
        calls::remove,
        reads::services,
        reads::replicas,
        calls::patch,
        calls::reload,
        reads::configuration,
        reads::ring,
        reads::explain,
        reads::what_if,
        reads::liveness,
        reads::readiness,
        reads::metrics,
        reads::openapi
    ),
    components(schemas(ErrorBody))
)]
struct AdminApi;

/// What a document is made for.
pub struct Described {
    pub services: Vec<String>,
    pub needs_token: bool,
}

pub fn document(described: &Described) -> Document {
    let mut document = AdminApi::openapi();
    document.info = Info::new("Ringway admin API", env!("CARGO_PKG_VERSION"));
    let components = document.components.get_or_insert_default();
    for body in ["Change", "ReplicaPatch"] {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(body) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            object.min_properties = Some(1);
        }
    }
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("--admin-token-file")).build();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    for (path, item) in &mut document.paths.paths {
        let is_open = [PAGE, LIVEZ, READYZ].contains(&path.as_str());
        // One handler serves both.
        if let Some(post) = item.post.as_mut().filter(|_| item.delete.is_some()) {
            post.operation_id = post.operation_id.take().map(|id| format!("{id}_by_post"));
        }
        for operation in operations(item) {
            // Of replicas it is a filter.
            let one_is_meant = path != "/replicas" && described.services.len() > 1;
            name_services(operation, &described.services, if one_is_meant { Required::True } else { Required::False });
            if described.needs_token && !is_open {
                require_token(operation);
            }
            describe_errors(operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

/// The parameter `service` is one of these.
fn name_services(operation: &mut Operation, services: &[String], required: Required) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if parameter.name == "service" && parameter.parameter_in == ParameterIn::Query {
            let names = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(services.to_vec()));
            parameter.schema = Some(names.into());
            parameter.required = required.clone();
        }
    }
}

fn require_token(operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    add_answer(operation, "401", "no token, or a wrong one");
}

fn add_answer(operation: &mut Operation, status: &str, description: &str) {
    let answer = ResponseBuilder::new().description(description).build();
    operation.responses.responses.insert(status.into(), answer.into());
}

/// Those that every call has, and the body of all errors.
fn describe_errors(operation: &mut Operation) {
    add_answer(operation, "403", "a page of another origin may not call");
    let unknown_host = "Host is no address, not localhost and no name of this balancer (--admin-host)";
    add_answer(operation, "421", unknown_host);
    let answers = &mut operation.responses.responses;
    for (_, answer) in answers.iter_mut().filter(|(status, _)| status.starts_with(['4', '5'])) {
        if let RefOr::T(answer) = answer {
            answer
                .content
                .insert("application/json".into(), Content::new(Some(Ref::from_schema_name("ErrorBody"))).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::Method;
    use serde_json::Value;

    use super::*;
    use crate::control::admin::routes;
    use crate::core::ring::WEIGHT_MAX;

    fn described(needs_token: bool) -> Value {
        let services = vec!["shop".into(), "blog".into()];
        serde_json::to_value(document(&Described { services, needs_token })).unwrap()
    }

    fn calls_of(document: &Value) -> BTreeSet<(String, String)> {
        let paths = document["paths"].as_object().unwrap().iter();
        let of = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
            methods.map(|method| (path.clone(), method)).collect::<Vec<_>>()
        };
        paths.flat_map(of).collect()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let routed = routes().into_iter().flat_map(|route| {
            route.methods.iter().map(move |method: &Method| (route.path.to_owned(), method.to_string()))
        });
        assert_eq!(calls_of(&described(false)), routed.collect());
    }

    #[test]
    fn every_call_has_a_name_of_its_own_a_summary_and_answers_with_a_body() {
        let document = described(true);
        let mut ids = BTreeSet::new();
        for (path, method) in calls_of(&document) {
            let operation = &document["paths"][&path][method.to_lowercase()];
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(answer["content"].as_object().is_some_and(|content| !content.is_empty()), "{path} {status}");
            }
        }
    }

    #[test]
    fn the_token_is_asked_for_where_it_is_required() {
        let security = |document: &Value, path: &str| document["paths"][path]["get"]["security"].clone();
        let (open, guarded) = (described(false), described(true));
        assert_eq!(guarded["components"]["securitySchemes"][TOKEN]["scheme"], "bearer");
        assert_eq!(security(&guarded, "/rep"), serde_json::json!([{ TOKEN: [] }]));
        for (document, path) in [(&open, "/rep"), (&guarded, PAGE), (&guarded, LIVEZ), (&guarded, READYZ)] {
            assert_eq!(security(document, path), Value::Null, "{path}");
            assert_eq!(document["paths"][path]["get"]["responses"]["401"], Value::Null, "{path}");
        }
    }

    #[test]
    fn bodies_are_as_the_parser_has_them() {
        let document = described(false);
        let schemas = &document["components"]["schemas"];
        let (change, patch) = (&schemas["Change"], &schemas["ReplicaPatch"]);
        assert_eq!((&change["required"], &change["additionalProperties"]), (&serde_json::json!(["n"]), &false.into()));
        assert_eq!((&patch["required"], &patch["minProperties"]), (&Value::Null, &1.into()));
        assert_eq!(patch["properties"]["weight"]["maximum"], WEIGHT_MAX);
        assert_eq!(schemas["RequestedState"]["enum"], serde_json::json!(["up", "drain"]));
    }

    #[test]
    fn the_service_is_required_where_one_of_several_is_meant() {
        let service = |document: &Value, path: &str, method: &str| {
            let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
            parameters.iter().find(|parameter| parameter["name"] == "service").unwrap().clone()
        };
        let several = described(false);
        let one = document(&Described { services: vec!["shop".into()], needs_token: false });
        let one = serde_json::to_value(one).unwrap();
        let add = service(&several, "/add", "post");
        assert_eq!((&add["schema"]["enum"], &add["required"]), (&serde_json::json!(["shop", "blog"]), &true.into()));
        assert_eq!(service(&several, "/replicas", "get")["required"], false);
        assert_eq!(service(&one, "/add", "post")["required"], false);
    }
}
