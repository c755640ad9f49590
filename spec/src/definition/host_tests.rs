//! What a definition says about the host itself.

use super::*;
use crate::appliance::{ApiListener, HostSettings, Opening, Protocol, SyslogTransport, Watchdog};
use crate::feature;
use crate::service::{Limits, Ready, Restart, ServiceKind};

const LEAST: &str = r#"[appliance]
name = "demo"
[kernel.host]
package = "linux-image-amd64"
hardware = ["virtio"]
[kernel.guest]
source = "linux-source-6.12"
fragments = ["guest/base"]
"#;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4hfV8g0b8s9xZ3Jq2m7Yw1 me";

fn parsed(more: &str) -> crate::appliance::Appliance {
    parse("a.toml", &format!("{LEAST}{more}")).unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
}

fn told(more: &str) -> String {
    parse("a.toml", &format!("{LEAST}{more}")).expect_err(more).to_string()
}

#[test]
fn what_is_not_asked_for_is_not_there() {
    let appliance = parsed("");
    assert_eq!(appliance.host, HostSettings::default());
    assert_eq!(feature::wanted(&appliance).count(), 0);
}

#[test]
fn everything_can_be_asked_for() {
    let appliance = parsed(&format!(
        r#"[log]
syslog = "tls://[fd00::1]:6514"
tls-keys = "loghost"
tls-name = "loghost.example"
[watchdog]
timeout-s = 30
[time]
servers = ["10.1.1.1", "ntp.example"]
[sysctl]
"net.core.somaxconn" = 1024
"net.ipv4.conf.eth0/10.forwarding" = "1"
[access]
shell = true
ssh = {{ keys = ["{KEY}"] }}
[api]
address = "10.1.1.2"
port = 8443
keys = "keys/demo"
names = ["demo.example", "10.1.1.9"]
[[service]]
name = "collect"
exec = ["/usr/bin/collect", "-f"]
feature = "collect"
after = ["ntp"]
user = "_collect"
restart = "on-failure"
ready = {{ port = 9100 }}
memory = "16MiB"
cpu-percent = 50
tasks = 8
[[service]]
name = "report"
kind = "once"
exec = ["/usr/bin/thimble-node", "guests"]
after = ["collect"]
"#
    ));
    let host = &appliance.host;
    let syslog = host.syslog.as_ref().unwrap();
    assert_eq!((syslog.transport, syslog.server.to_string().as_str()), (SyslogTransport::Tls, "[fd00::1]:6514"));
    assert_eq!(host.watchdog, Some(Watchdog { timeout_s: 30, node_s: 60 }));
    assert_eq!(host.sysctl["net.core.somaxconn"], "1024");
    assert_eq!(host.ssh.as_ref().map(|ssh| (ssh.keys.len(), ssh.port)), Some((1, 22)));
    assert_eq!(host.api, Some(ApiListener { address: Some("10.1.1.2".parse().unwrap()), port: 8443 }));
    let [collect, report] = &host.services[..] else { panic!("two services") };
    assert_eq!(collect.limits, Limits { memory_mib: Some(16), cpu_percent: Some(50), tasks: Some(8) });
    assert_eq!((collect.restart, collect.ready.clone()), (Restart::OnFailure, Some(Ready::Port(9100))));
    assert_eq!((report.kind, report.restart, report.user.clone()), (ServiceKind::Once, Restart::Always, None));
    let features: Vec<&str> = feature::wanted(&appliance).collect();
    assert_eq!(features, ["collect", "ntp", "shell", "ssh", "terminal", "watchdog"]);
    let json = serde_json::to_vec(&appliance).unwrap();
    assert_eq!(serde_json::from_slice::<crate::appliance::Appliance>(&json).unwrap(), appliance);
}

#[test]
fn mistakes_are_named_with_line_and_key() {
    let service = "[[service]]\nname = \"a\"\nexec = [\"/bin/a\"]\n";
    for (more, wanted) in [
        ("[log]\nsyslog = \"10.0.0.1\"\n", "a.toml:10: log.syslog: `10.0.0.1` is no address of a syslog server"),
        ("[log]\nsyslog = \"udp://loghost:514\"\n", "`udp://loghost:514` has no address and port"),
        ("[log]\nsyslog = \"tls://10.0.0.1:6514\"\n", "a.toml:10: log.syslog: by TLS it takes `tls-keys`"),
        ("[log]\nsyslog = \"udp://10.0.0.1:514\"\ntls-keys = \"a\"\n", "a.toml:11: log.tls-keys: the log does not go"),
        ("[log]\ntls-name = \"a\"\n", "log.tls-name: the log does not go"),
        ("[log]\nsyslog = \"tls://10.0.0.1:1\"\ntls-keys = \"\"\n", "log.tls-keys: name a directory"),
        (
            "[log]\nsyslog = \"tls://10.0.0.1:1\"\ntls-keys = \"a\"\ntls-name = \"a b\"\n",
            "log.tls-name: `a b` is neither a name nor",
        ),
        ("[watchdog]\ntimeout-s = 5\n", "a.toml:10: watchdog.timeout-s: 5 seconds are not between 10 and 600"),
        ("[watchdog]\nnode-s = 0\n", "watchdog.node-s: 0 seconds are not between 5 and 3600"),
        ("[watchdog]\nhours = 1\n", "unknown field `hours`"),
        ("[time]\nservers = [\"a b\"]\n", "a.toml:10: time.servers[0]: `a b` is neither a name nor an address"),
        ("[sysctl]\n\"../x\" = 1\n", "`../x` is no name of a sysctl"),
        ("[sysctl]\n\"kernel.x\" = \"a\\nb\"\n", "a.toml:10: sysctl.kernel.x: is no line"),
        ("[access.ssh]\nkeys = []\n", "a.toml:10: access.ssh.keys: without a key nobody could log in"),
        ("[access.ssh]\nkeys = [\"command=\\\"x\\\" ssh-rsa AAAA\"]\n", "access.ssh.keys[0]: begin with the kind"),
        ("[access.ssh]\nkeys = [\"ssh-rsa AAAA\"]\n", "access.ssh.keys[0]: is not a public key"),
        ("[api]\nport = 0\n", "a.toml:10: api.port: 0 is no port"),
        ("[api]\nnames = [\"a b\"]\n", "a.toml:10: api.names[0]: `a b` is neither a name nor an address"),
        ("[api]\nkeys = \"\"\n", "api.keys: name a directory"),
        (
            "[firewall]\napi-from = [\"10.0.0.0/8\"]\n",
            "firewall.api-from: nobody asks the node daemon over the network",
        ),
        ("[api]\n[firewall]\nopen = [{ port = 7443 }]\n", "[api] opens its port itself: firewall.api-from says"),
        ("[[service]]\nname = \"a\"\nexec = [\"a\"]\n", "a.toml:11: service[0].exec: name the program by its absolute"),
        ("[[service]]\nname = \"ntp\"\nexec = [\"/a\"]\n", "a.toml:10: service[0].name: service ntp is there already"),
        (
            &format!("{service}after = [\"b\"]\n"),
            "a.toml:12: service[0].after[0]: `b` is no service that stands before",
        ),
        (&format!("{service}tasks = 0\n"), "a.toml:12: service[0].tasks: nothing runs with 0 of it"),
        (&format!("{service}memory = \"1KiB\"\n"), "service[0].memory: no program starts in less than 1MiB"),
        (&format!("{service}feature = \"../x\"\n"), "service[0].feature: `../x` is not a name"),
        (&format!("{service}user = \"a:b\"\n"), "service[0].user: `a:b` is not the name of a user"),
        (&format!("{service}ready = {{ file = \"x\" }}\n"), "service[0].ready: `x` is not an absolute path"),
    ] {
        let told = told(more);
        assert!(told.contains(wanted), "{more}\n{told}");
    }
}

#[test]
fn the_api_opens_its_port_in_the_firewall() {
    let opened = |more: &str| parsed(more).firewall.unwrap().open;
    let from = vec!["10.0.0.0/8".parse().unwrap()];
    let wanted = Opening { protocol: Protocol::Tcp, port: 7443, from };
    assert_eq!(opened("[api]\n[firewall]\napi-from = [\"10.0.0.0/8\"]\n"), [wanted]);
    assert_eq!(opened("[firewall]\n"), []);
}
