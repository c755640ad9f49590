//! An NFS export, as it is named on the host's kernel command line: `thimble.nfs=SERVER:/PATH[,OPTION...]`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The key on the command line that names the export with a node's images.
pub const NFS: &str = "thimble.nfs";
/// A word on the command line: images are copied from the export into memory, and the export is left alone after that.
pub const TO_RAM: &str = "thimble.toram";
/// The export's directory of objects, each under its SHA-256 in hexadecimal.
pub const OBJECTS_DIR: &str = "objects";

/// Options that an export may have besides, in the words of nfs(5): those that say how the server is reached, and none
/// that could make a node write there or run what lies there.
const OPTIONS: [&str; 9] = ["vers", "port", "proto", "timeo", "retrans", "rsize", "nconnect", "noresvport", "soft"];

/// An export and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The server: a node has no resolver when it mounts.
    pub server: Ipv4Addr,
    /// The directory there, as the server calls it.
    pub path: String,
    /// More options, in order; empty for none.
    options: String,
}

impl Export {
    /// `SERVER:/PATH`, what mount(2) calls the device.
    pub fn source(&self) -> String {
        format!("{}:{}", self.server, self.path)
    }

    /// The options that mount(2) takes. The kernel wants the address of a server that a program would look up
    /// (`nfs4_parse_monolithic` and `fs_parameter` tables in Linux `fs/nfs/fs_context.c`).
    pub fn mount_options(&self) -> String {
        let version = if self.has("vers") { "" } else { "vers=4.2," };
        let more = if self.options.is_empty() { String::new() } else { format!(",{}", self.options) };
        format!("{version}addr={}{more}", self.server)
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|text| name(text) == option)
    }
}

fn name(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "write SERVER:/PATH, with the server's IPv4 address";
        let (server, rest) = text.split_once(':').ok_or_else(|| form.to_owned())?;
        let server = server.parse().map_err(|_| format!("`{server}` is no IPv4 address: {form}"))?;
        let (path, options) = rest.split_once(',').unwrap_or((rest, ""));
        if !path.starts_with('/') || path.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(format!("`{path}` is no absolute path: {form}"));
        }
        let foreign = options.split(',').find(|option| !option.is_empty() && !OPTIONS.contains(&name(option)));
        if let Some(option) = foreign {
            return Err(format!("the option `{option}` is none of {}", OPTIONS.join(", ")));
        }
        Ok(Self { server, path: path.to_owned(), options: options.trim_matches(',').to_owned() })
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_export_is_read_and_becomes_what_mount_takes() {
        let export: Export = "10.1.1.1:/srv/rack7".parse().unwrap();
        assert_eq!(export.source(), "10.1.1.1:/srv/rack7");
        assert_eq!(export.mount_options(), "vers=4.2,addr=10.1.1.1");
        let export: Export = "10.0.2.2:/t,vers=4.1,port=12049,noresvport".parse().unwrap();
        assert_eq!(export.mount_options(), "addr=10.0.2.2,vers=4.1,port=12049,noresvport");
    }

    #[test]
    fn what_is_no_export_is_told() {
        for (text, reason) in [
            ("nfs", "write SERVER:/PATH, with the server's IPv4 address"),
            ("nas:/srv", "`nas` is no IPv4 address: write SERVER:/PATH, with the server's IPv4 address"),
            ("10.1.1.1:srv", "`srv` is no absolute path: write SERVER:/PATH, with the server's IPv4 address"),
            (
                "10.1.1.1:/srv,exec",
                "the option `exec` is none of vers, port, proto, timeo, retrans, rsize, nconnect, noresvport, soft",
            ),
        ] {
            assert_eq!(text.parse::<Export>(), Err(reason.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in ".*") {
            if let Ok(export) = text.parse::<Export>() {
                prop_assert!(export.mount_options().contains("addr="));
            }
        }
    }
}
