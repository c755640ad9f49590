//! What the small values look like that are read from text, for the description of the API (feature `schema`). A pattern lets
//! through all that is read, and as little else as a pattern can tell.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::ip::IpNet;
use crate::names::{Ipv4Net, Mac};
use crate::units::ByteSize;

/// The name of a guest, a disk or a snapshot: [`crate::names::check_name`].
pub const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

impl JsonSchema for Mac {
    fn schema_name() -> Cow<'static, str> {
        "Mac".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The second digit of a group's address is odd.
        json_schema!({
            "description": "An Ethernet address of one interface.",
            "type": "string",
            "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
        })
    }
}

impl JsonSchema for Ipv4Net {
    fn schema_name() -> Cow<'static, str> {
        "Ipv4Net".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An IPv4 address with the length of its network's prefix.",
            "type": "string",
            "pattern": format!("^{V4}/{V4_PREFIX}$"),
        })
    }
}

impl JsonSchema for IpNet {
    fn schema_name() -> Cow<'static, str> {
        "IpNet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An address of either family with the length of its network's prefix.",
            "type": "string",
            "pattern": format!("^({V4}/{V4_PREFIX}|[0-9A-Fa-f:.]{{2,45}}/{V6_PREFIX})$"),
        })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, or a whole number with a unit.",
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]{1,19} ?([TGMK]i?)?B?$", "examples": ["64MiB"] },
                { "type": "integer", "minimum": 0 },
            ],
        })
    }
}

const V4: &str = "((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})";
const V4_PREFIX: &str = "(3[0-2]|[12]?[0-9])";
const V6_PREFIX: &str = "(12[0-8]|1[01][0-9]|[1-9]?[0-9])";
