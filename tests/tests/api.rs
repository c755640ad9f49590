//! A host's API is asked for all that its OpenAPI document says, and for what it does not, by schemathesis: as somebody who may
//! everything, and as somebody who may only look.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use thimble_spec::api::identity::PORT;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, repository, thimble};

/// Generated requests for each thing that can be asked, besides those that the document leads to by itself.
const EXAMPLES: u32 = 8;
/// The same requests at each run.
const SEED: u32 = 20_070_101;

/// What both runs have: requests that hit guests that are there; no wait for events that do not come; and a task that was given
/// up can still be read. A console is no HTTP any more; whoever has a command run asks for an upgrade, and is told so.
const COMMON: &str = "
request-timeout = 30
max-stream-events = 1

[dictionaries.guests]
values = [\"web1\", \"web2\"]

[parameters]
name = { dictionary = \"guests\", probability = 0.6 }
of = { dictionary = \"guests\", probability = 0.6 }

[[operations]]
include-path = \"/v1/events\"
request-timeout = 2
[operations.generation]
max-examples = 2

[[operations]]
include-path = \"/v1/tasks/{id}\"
[operations.checks.use_after_free]
enabled = false

[[operations]]
include-path = \"/v1/guests/{name}/console\"
enabled = false

[[operations]]
include-path = \"/v1/guests/{name}/exec\"
[operations.checks.missing_required_header]
expected-statuses = [403, 404, 426]
[operations.checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 426]
";
/// What may be refused of what the document allows: a guest that is not there, or not so, or may not be that.
const ADMIN: &str = "
[checks.positive_data_acceptance]
expected-statuses = [\"2xx\", 400, 404, 409, 412]
";
/// Who may only look is refused, whatever they ask to be changed; what is not there is not there for them either.
const READ: &str = "
[checks.positive_data_acceptance]
expected-statuses = [403]
[checks.negative_data_rejection]
expected-statuses = [403, 404, 405]
";

/// A host with an API, and the certificates for it.
struct Host {
    directory: TempDir,
    machine: Machine,
    port: u16,
}

impl Host {
    fn boot() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let definition = Definition::read("configs/demo.toml").with(&[
            ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
            ("memory = \"96MiB\"", "memory = \"64MiB\""),
        ]);
        let definition = definition.and("[api]\nnames = [\"127.0.0.1\"]\n").named("api");
        let out = definition.build(directory.path(), ["--format", "netboot"]);
        let port = free_port();
        let mut machine =
            Machine::boot(&Boot { forward: &[(port, &format!("host:{PORT}"))], ..Boot::new(&out, "direct") });
        machine.wait_all(&["^thimble: guest web1 ready", "^thimble: guest web2 ready"], BOOT_LIMIT);
        Self { directory, machine, port }
    }

    fn client(&self, name: &str, role: &str) -> PathBuf {
        let config = self.directory.path().join("api.toml");
        let made = thimble().arg("client-cert").arg(&config).args([name, "--role", role, "--library", "."]).output();
        let made = made.expect("thimble starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        config.with_extension("tls").join("clients").join(name)
    }

    fn runs(&self, keys: &Path, words: &str) -> Output {
        let mut command = Command::new(repository().join("target/x86_64-unknown-linux-gnu/appliance/thimblectl"));
        command.args(["--host", &format!("127.0.0.1:{}", self.port), "--keys"]).arg(keys).args(words.split(' '));
        command.output().expect("thimblectl is there: make programs")
    }

    fn does(&self, keys: &Path, words: &str) -> bool {
        self.runs(keys, words).status.success()
    }

    fn says(&self, keys: &Path, words: &str) -> String {
        let output = self.runs(keys, words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has schemathesis ask.
    fn is_asked(&self, keys: &Path, config: &str, words: &[&str]) {
        let script = Command::new(repository().join("scripts/schemathesis")).stderr(Stdio::inherit()).output();
        let script = script.expect("scripts/schemathesis starts");
        assert!(script.status.success(), "schemathesis is not there");
        let program = String::from_utf8(script.stdout).expect("a path");
        let file = self.directory.path().join("schemathesis.toml");
        fs::write(&file, config).expect("it can be written");
        let mut command = Command::new(program.trim());
        command
            .arg("--no-color")
            .arg("--config-file")
            .arg(&file)
            .arg("run")
            .arg(repository().join("docs/openapi.json"));
        command.args(["--url", &format!("https://127.0.0.1:{}", self.port)]);
        command.args(["--seed", &SEED.to_string(), "--max-examples", &EXAMPLES.to_string(), "--no-shrink"]);
        command.args(["--continue-on-failure", "--warnings", "off"]).args(words);
        command.arg("--tls-verify").arg(keys.join("ca.pem")).arg("--request-cert").arg(keys.join("cert.pem"));
        command.arg("--request-cert-key").arg(keys.join("key.pem"));
        let output = command.current_dir(self.directory.path()).output().expect("schemathesis starts");
        let told = String::from_utf8_lossy(&output.stdout);
        println!("{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: see above", output.status);
    }

    /// The names of the guests, and how they are defined.
    fn guests(&self, keys: &Path) -> Vec<(String, Value)> {
        let list: Value = serde_json::from_str(&self.says(keys, "list --all --json")).expect("JSON");
        let names = list["guests"].as_array().expect("a list").iter().map(|it| it["name"].as_str().expect("a name"));
        let defined = |name: &str| self.says(keys, &format!("dumpconfig {name} --inactive"));
        names.map(|name| (name.to_owned(), serde_json::from_str(&defined(name)).expect("JSON"))).collect()
    }
}

#[test]
fn the_api_is_what_its_document_says_whatever_it_is_asked() {
    let host = Host::boot();
    let admin = host.directory.path().join("api.tls/clients/admin");
    let read = host.client("rita", "read");

    // Who may only look changes nothing.
    let before = host.guests(&admin);
    let changes = ["--include-method", "POST", "--include-method", "PUT", "--include-method", "DELETE"];
    host.is_asked(&read, &format!("{COMMON}{READ}"), &[&changes[..], &["--phases", "fuzzing"]].concat());
    assert_eq!(host.guests(&admin), before);
    let (audit, list) = (host.says(&admin, "audit"), host.says(&admin, "list"));
    assert!(!audit.contains("rita") && list.matches("running").count() == 2, "{list}{audit}");

    // Who may everything is answered, and the daemon that answers is the one that it was.
    host.is_asked(&admin, &format!("{COMMON}{ADMIN}"), &["--phases", "examples,coverage,fuzzing,stateful"]);
    let again = host.machine.seen().iter().find(|line| line.contains(" adopted") || line.contains("panicked"));
    assert_eq!(again, None);
    println!("{}", host.says(&admin, "list --all"));
    assert!(host.says(&admin, "tasks").lines().count() > 1);
    // Whatever a guest was left in, it starts.
    let began = Instant::now();
    while !host.does(&admin, "start web1 --wait") {
        assert!(began.elapsed() < BOOT_LIMIT, "web1 does not start any more");
        host.does(&admin, "destroy web1 --wait");
        sleep(Duration::from_secs(1));
    }
}
