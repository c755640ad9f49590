//! Tables, chains and rules as messages of nfnetlink (linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h).

use std::collections::BTreeMap;

use super::rules::{Chain, Family, Key, Match, Rule, Table, Then};
use super::socket::Counter;

/// All our tables have this name, each in its family.
pub const TABLE: &str = "thimble";

// Flags of requests (linux/netlink.h).
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// A nested attribute.
const NLA_F_NESTED: u16 = 0x8000;

/// `NFNL_SUBSYS_NFTABLES`, the upper half of a message's kind.
const SUBSYSTEM: u16 = 10;
// `enum nf_tables_msg_types`.
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWOBJ: u16 = 18;
const GETOBJ: u16 = 19;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH: [u16; 2] = [0x10, 0x11];
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Behind it, of `struct nfgenmsg`.
pub const FAMILY: usize = 4;
/// `NFT_OBJECT_COUNTER`.
const OBJECT_COUNTER: u32 = 1;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;
/// `NFT_REG_2`.
const SECOND_REGISTER: u32 = 2;
/// `NFT_NAT_DNAT`.
const NAT_TO: u32 = 1;
/// `NFPROTO_IPV4`.
const IPV4: u32 = 2;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
const OF_DESTINATION: u32 = 2;
/// `NF_ACCEPT`; `NF_DROP` is 0.
const ACCEPT: u32 = 1;
/// `NFT_JUMP`.
const JUMP: i32 = -3;

/// Messages behind each other.
pub struct Batch {
    bytes: Vec<u8>,
    last: usize,
    sequence: u32,
}

impl Batch {
    /// The messages of one transaction: what each family has of ours goes, and `tables` come, with their counters at what
    /// `counted` has for them.
    pub fn replace(tables: &[Table], counted: &BTreeMap<(Family, String), Counter>, sequence: u32) -> Self {
        let mut batch = Self { bytes: Vec::new(), last: 0, sequence };
        batch.mark(BATCH[0]);
        for family in [Family::Inet, Family::Bridge] {
            let name = Attributes::default().text(1, TABLE);
            // To delete what is not there is an error, to add what is there is none.
            batch.message(NEWTABLE, NLM_F_CREATE, family, &name);
            batch.message(DELTABLE, 0, family, &name);
        }
        for table in tables {
            batch.table(table, counted);
        }
        // The last change is acknowledged, or else its failure and that of any other.
        let flags = &mut batch.bytes[batch.last + 6..batch.last + 8];
        flags.iter_mut().zip(NLM_F_ACK.to_ne_bytes()).for_each(|(flag, more)| *flag |= more);
        batch.mark(BATCH[1]);
        batch
    }

    /// Asks for all counters of a family.
    pub fn counters(family: Family, sequence: u32) -> Vec<u8> {
        let mut batch = Self { bytes: Vec::new(), last: 0, sequence };
        let wanted = Attributes::default().text(1, TABLE).number(3, OBJECT_COUNTER);
        batch.message(GETOBJ, NLM_F_DUMP, family, &wanted);
        batch.bytes
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn table(&mut self, table: &Table, counted: &BTreeMap<(Family, String), Counter>) {
        let family = table.family;
        self.message(NEWTABLE, NLM_F_CREATE, family, &Attributes::default().text(1, TABLE));
        for name in table.counters() {
            let before = counted.get(&(family, name.to_owned())).copied().unwrap_or_default();
            let data = Attributes::default().long(1, before.bytes).long(2, before.packets);
            let object = Attributes::default().text(1, TABLE).text(2, name).number(3, OBJECT_COUNTER).nest(4, &data);
            self.message(NEWOBJ, NLM_F_CREATE, family, &object);
        }
        for chain in &table.chains {
            self.chain(family, chain);
        }
        // Behind the chains, which they may jump to.
        for chain in &table.chains {
            for rule in &chain.rules {
                let expressions = expressions(rule);
                let rule = Attributes::default().text(1, TABLE).text(2, &chain.name).nest(4, &expressions);
                self.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, &rule);
            }
        }
    }

    fn chain(&mut self, family: Family, chain: &Chain) {
        let mut attributes = Attributes::default().text(1, TABLE).text(3, &chain.name);
        if let Some(hook) = chain.hook {
            let place = Attributes::default().number(1, hook.number).number(2, hook.priority.cast_unsigned());
            let policy = if hook.drops { 0 } else { ACCEPT };
            attributes = attributes.nest(4, &place).number(5, policy).text(7, hook.kind);
        }
        self.message(NEWCHAIN, NLM_F_CREATE, family, &attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, family: Family, attributes: &Attributes) {
        self.put(SUBSYSTEM << 8 | kind, flags, [family as u8, 0, 0, 0], &attributes.0);
    }

    /// Begin or end, which name the subsystem.
    fn mark(&mut self, kind: u16) {
        let last = self.last;
        let [high, low] = SUBSYSTEM.to_be_bytes();
        self.put(kind, 0, [0, 0, high, low], &[]);
        self.last = last;
    }

    fn put(&mut self, kind: u16, flags: u16, family: [u8; FAMILY], attributes: &[u8]) {
        self.last = self.bytes.len();
        let length = HEADER + FAMILY + attributes.len();
        // No message is longer than a few hundred bytes.
        self.bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(family);
        self.bytes.extend(attributes);
    }
}

/// Attributes behind each other, each padded to four bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn number(self, kind: u16, number: u32) -> Self {
        self.put(kind, &number.to_be_bytes())
    }

    fn long(self, kind: u16, number: u64) -> Self {
        self.put(kind, &number.to_be_bytes())
    }

    fn nest(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    /// An expression of a rule: its name and what it is told.
    fn expression(self, name: &str, data: &Self) -> Self {
        let element = Self::default().text(1, name).nest(2, data);
        self.nest(1, &element)
    }
}

fn expressions(rule: &Rule) -> Attributes {
    let all = rule.matches.iter().fold(Attributes::default(), matched);
    let all = match &rule.counter {
        Some(name) => all.expression("objref", &Attributes::default().number(1, OBJECT_COUNTER).text(2, name)),
        None => all,
    };
    match &rule.then {
        Then::Accept => verdict(all, &Attributes::default().number(1, ACCEPT)),
        Then::Drop => verdict(all, &Attributes::default().number(1, 0)),
        Then::Masquerade => all.expression("masq", &Attributes::default()),
        Then::SendTo(address, port) => {
            let load = |all: Attributes, register, value: &[u8]| {
                let data = Attributes::default().put(1, value);
                all.expression("immediate", &Attributes::default().number(1, register).nest(2, &data))
            };
            let all = load(all, REGISTER, &address.octets());
            let all = load(all, SECOND_REGISTER, &port.to_be_bytes());
            let to = Attributes::default().number(1, NAT_TO).number(2, IPV4);
            all.expression("nat", &to.number(3, REGISTER).number(5, SECOND_REGISTER))
        }
        Then::Jump(chain) => verdict(all, &Attributes::default().number(1, JUMP.cast_unsigned()).text(2, chain)),
    }
}

/// `immediate` into the verdict's register.
fn verdict(all: Attributes, code: &Attributes) -> Attributes {
    let data = Attributes::default().nest(2, code);
    all.expression("immediate", &Attributes::default().number(1, 0).nest(2, &data))
}

/// A value into a register, cut by the mask, compared.
fn matched(all: Attributes, wanted: &Match) -> Attributes {
    let data = Attributes::default;
    let all = match wanted.key {
        Key::Meta(key) => all.expression("meta", &data().number(1, REGISTER).number(2, key)),
        Key::Connection(key) => all.expression("ct", &data().number(1, REGISTER).number(2, key)),
        Key::Destination => {
            let asked = data().number(1, REGISTER).number(2, ADDRESS_TYPE).number(3, OF_DESTINATION);
            all.expression("fib", &asked)
        }
        Key::Payload(base, offset, length) => {
            let place = data().number(1, REGISTER).number(2, base).number(3, offset).number(4, length);
            all.expression("payload", &place)
        }
    };
    let all = match &wanted.mask {
        Some(mask) => {
            // Their length in bytes; and nothing is turned over.
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            let registers = data().number(1, REGISTER).number(2, REGISTER).number(3, length);
            let zeros = data().put(1, &vec![0; mask.len()]);
            all.expression("bitwise", &registers.nest(4, &data().put(1, mask)).nest(5, &zeros))
        }
        None => all,
    };
    let value = data().put(1, &wanted.value);
    all.expression("cmp", &data().number(1, REGISTER).number(2, wanted.differs.into()).nest(3, &value))
}

/// Name and value of a counter, behind the headers of a message.
pub fn read_counter(attributes: &[u8]) -> Option<(String, Counter)> {
    let name = find(attributes, 2)?;
    let data = find(attributes, 4)?;
    let number = |kind| find(data, kind)?.try_into().ok().map(u64::from_be_bytes);
    let counter = Counter { bytes: number(1)?, packets: number(2)? };
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some((String::from_utf8_lossy(name).into_owned(), counter))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let [a, b, c, d, ..] = *attributes {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length)?;
        if kind & !NLA_F_NESTED == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let attributes = Attributes::default().text(1, "ab").number(2, 7).nest(3, &Attributes::default().long(1, 9));
        assert_eq!(attributes.0.len(), 8 + 8 + 16);
        assert_eq!(find(&attributes.0, 1), Some(&b"ab\0"[..]));
        assert_eq!(find(find(&attributes.0, 3).unwrap(), 1), Some(&9u64.to_be_bytes()[..]));
        assert_eq!(find(&attributes.0, 4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            let _ = read_counter(&bytes);
        }
    }
}
