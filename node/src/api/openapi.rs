//! The description of the API (OpenAPI 3.1), made from the table of routes and from the types: it is `docs/openapi.json`, and
//! the test here fails when that is another. `THIMBLE_WRITE=1 cargo test -p thimble-node openapi` writes it.

use hyper::Method;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use thimble_spec::api::{Problem, audit, event, guest, network, node, snapshot, task, volume};
use thimble_spec::appliance::Guest;
use thimble_spec::host::Logs;
use thimble_spec::schema::NAME;
use thimble_spec::units::ByteSize;

use super::routes::{self, Gives, Route};

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<Problem>();
    generator.subschema_for::<node::Node>();
    generator.subschema_for::<node::Hardware>();
    generator.subschema_for::<node::Sysinfo>();
    generator.subschema_for::<network::Networks>();
    generator.subschema_for::<Logs>();
    generator.subschema_for::<guest::Guests>();
    generator.subschema_for::<guest::Detail>();
    generator.subschema_for::<guest::Definition>();
    generator.subschema_for::<Guest>();
    generator.subschema_for::<ByteSize>();
    generator.subschema_for::<guest::Stats>();
    generator.subschema_for::<guest::Inside>();
    generator.subschema_for::<task::Tasks>();
    generator.subschema_for::<volume::Volumes>();
    generator.subschema_for::<snapshot::Snapshots>();
    generator.subschema_for::<audit::Audit>();
    generator.subschema_for::<event::Event>();
    let schemas = generator.take_definitions(true);

    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_lowercase()] = operation(route, &schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "A node of Thimble",
            "version": "1",
            "description": "HTTP/1.1 at /run/thimble/node.sock of a host, for root; and over TLS 1.3, at the port of [api] in the appliance's \
                            definition, to clients with a certificate of its authority, whose role says what they may. \
                            Only what is put has a body: a definition of 64 KiB at most, or a release.",
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(route: &Route, schemas: &Map<String, Value>) -> Value {
    let reference = |name: &str| {
        assert!(schemas.contains_key(name), "{}: there is no type {name}", route.path);
        json!({ "$ref": format!("#/components/schemas/{name}") })
    };
    let content = |kind: &str, schema: Value| json!({ kind: { "schema": schema } });
    let (status, description, given) = match route.gives {
        Gives::Json(name) => ("200", "it", content("application/json", reference(name))),
        Gives::Accepted(name) => {
            ("202", "it was asked for: how far it is", content("application/json", reference(name)))
        }
        Gives::Definition => ("200", "it", content("application/json", reference("GuestDefinition"))),
        Gives::Kind(kind @ "text/event-stream") => {
            let data = json!({
                "type": "string", "contentMediaType": "application/json", "contentSchema": reference("Event"),
            });
            let text = json!({ "type": "string" });
            let properties = json!({ "id": text, "event": text, "data": data });
            let event = json!({ "type": "object", "properties": properties, "required": ["data"] });
            ("200", "server-sent events: the data of each is an Event", content(kind, event))
        }
        Gives::Kind(kind @ "application/json") => ("200", "it", content(kind, json!({ "type": "object" }))),
        Gives::Kind(kind) => ("200", "it", content(kind, json!({ "type": "string" }))),
        Gives::Connection(_) => ("101", "the connection is it from here on", json!({})),
    };
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": parameter(name) }))
        .collect();
    parameters.extend(route.query.iter().map(|(name, description)| {
        let required = ["of", "size"].contains(name);
        json!({ "name": name, "in": "query", "description": description, "required": required, "schema": parameter(name) })
    }));
    if let Gives::Connection(protocol) = route.gives {
        let wanted = match route.method {
            Method::GET => json!({ "enum": [protocol, "websocket"] }),
            _ => json!({ "const": protocol }),
        };
        parameters.push(json!({ "name": "Upgrade", "in": "header", "required": true, "schema": wanted }));
    }
    if route.path.ends_with("/definition") && route.method != Method::GET {
        for (name, description) in [
            ("If-Match", "only if this is the definition: what `ETag` said of it; else the answer is 412"),
            ("If-None-Match", "`*`: only if there is no such guest; else the answer is 412"),
        ] {
            let schema = json!({ "type": "string" });
            parameters.push(json!({ "name": name, "in": "header", "description": description, "schema": schema }));
        }
    }
    let mut success = json!({ "description": description });
    if given.as_object().is_some_and(|given| !given.is_empty()) {
        success["content"] = given;
    }
    let problem = json!({
        "description": "why not: one sentence",
        "content": { "application/json": { "schema": reference("Problem") } },
    });
    let mut operation = json!({
        "operationId": identifier(&route.method, route.path),
        "summary": route.summary,
        "description": format!("For the role {}.", route.role.name()),
        "x-thimble-role": route.role.name(),
        "parameters": parameters,
        "responses": { status: success, "default": problem },
    });
    if route.method == Method::PUT {
        let body = match route.path {
            "/v1/node/update" => content("application/octet-stream", json!({ "type": "string", "format": "binary" })),
            _ => content("application/json", reference("GuestDefinition")),
        };
        operation["requestBody"] = json!({ "required": true, "content": body });
    }
    operation
}

/// What stands in a path or a query under this name, which is the same wherever it stands.
fn parameter(name: &str) -> Value {
    match name {
        "name" | "snapshot" | "guest" | "of" => json!({ "type": "string", "pattern": NAME }),
        "id" => json!({ "type": "string", "pattern": "^[!-.0-~]{1,64}$" }),
        "after" => json!({ "type": "string" }),
        "force" | "json" | "live" | "reboot" | "write" => json!({ "type": "boolean" }),
        "size" => json!({ "$ref": "#/components/schemas/ByteSize" }),
        "from" | "wait_s" => json!({ "type": "integer", "minimum": 0 }),
        other => panic!("{other}: nobody has said here what it looks like"),
    }
}

/// `get-guests-name-stats`.
fn identifier(method: &Method, path: &str) -> String {
    let words = path.split(|character: char| !character.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty() && *word != "v1");
    [method.as_str().to_lowercase().as_str()].into_iter().chain(words).collect::<Vec<_>>().join("-")
}

#[test]
fn the_document_is_what_the_daemon_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("THIMBLE_WRITE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == text,
        "docs/openapi.json is another: THIMBLE_WRITE=1 cargo test -p thimble-node openapi writes it"
    );
}
