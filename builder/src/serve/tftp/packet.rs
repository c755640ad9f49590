//! TFTP's packets (RFC 1350 section 5), and the options of a request (RFC 2347).

use std::time::Duration;

/// The block size without options (RFC 1350).
pub const BLOCK: u16 = 512;
/// The largest (RFC 2348).
const LARGEST_BLOCK: u16 = 65464;
/// Blocks in flight at most, whatever a client asks for (RFC 7440 lets the server say less): more only overruns it.
const LARGEST_WINDOW: u16 = 64;
/// The longest request (RFC 2347).
const LONGEST_REQUEST: usize = 512;

/// Error codes (RFC 1350, appendix; 8 is RFC 2347's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// See the message.
    Undefined = 0,
    /// File not found.
    NotFound = 1,
    /// Access violation.
    Access = 2,
    /// Illegal operation.
    Illegal = 4,
}

/// A request for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub file: String,
    /// What was agreed to, among what the client asked for.
    pub options: Options,
}

/// Options that the client sent and that we take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a block.
    pub block: Option<u16>,
    /// The client wants to know the file's size.
    pub size: bool,
    /// Seconds between two attempts (RFC 2349).
    pub timeout: Option<u8>,
    /// Blocks between two acknowledgements (RFC 7440).
    pub window: Option<u16>,
}

/// Why a first packet is not answered with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is an error itself, or nothing that TFTP has: errors are never answered with errors.
    Silence,
    /// It is answered.
    Error(Code, &'static str),
}

impl Request {
    /// Reads a client's first packet.
    ///
    /// # Errors
    /// It is no request for reading a file as it is.
    pub fn parse(packet: &[u8]) -> Result<Self, Bad> {
        let rest = match packet {
            [0, 1, rest @ ..] => rest,
            [0, 2, ..] => return Err(Bad::Error(Code::Access, "files are only read here")),
            [0, 3 | 4, ..] => return Err(Bad::Error(Code::Illegal, "that transfer is over")),
            _ => return Err(Bad::Silence),
        };
        let bad = Bad::Error(Code::Illegal, "that request is malformed");
        if packet.len() > LONGEST_REQUEST {
            return Err(bad);
        }
        // Each word ends with a zero. Some ROMs leave bytes behind the last one: they are no word, and passed over.
        let end = rest.iter().rposition(|&byte| byte == 0).ok_or(bad)?;
        let mut words = rest[..end].split(|&byte| byte == 0).map(|word| std::str::from_utf8(word).map_err(|_| bad));
        let file = words.next().ok_or(bad)??.to_owned();
        let mode = words.next().ok_or(bad)??;
        if !mode.eq_ignore_ascii_case("octet") {
            return Err(Bad::Error(Code::Illegal, "the mode is octet here, and no other"));
        }
        let mut options = Options::default();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            // An option that is not understood is left out of the answer (RFC 2347); so is a value that makes no sense.
            let (Ok(name), Ok(value)) = (name, value) else { continue };
            let number = value.parse::<u32>().ok();
            match name.to_ascii_lowercase().as_str() {
                "blksize" => options.block = number.filter(|&n| n >= 8).map(|n| at_most(n, LARGEST_BLOCK)),
                "tsize" => options.size = true,
                "timeout" => options.timeout = number.and_then(|n| u8::try_from(n).ok()).filter(|&n| n > 0),
                "windowsize" => options.window = number.filter(|&n| n >= 1).map(|n| at_most(n, LARGEST_WINDOW)),
                _ => {}
            }
        }
        Ok(Self { file, options })
    }
}

fn at_most(number: u32, most: u16) -> u16 {
    u16::try_from(number).unwrap_or(most).min(most)
}

impl Options {
    /// The packet that says what was agreed to; `None` if nothing was asked for that we know.
    pub fn acknowledgement(&self, size: u64) -> Option<Vec<u8>> {
        let mut packet = vec![0, 6];
        let mut put = |name: &str, value: u64| packet.extend(format!("{name}\0{value}\0").bytes());
        self.block.into_iter().for_each(|block| put("blksize", block.into()));
        self.size.then(|| put("tsize", size));
        self.timeout.into_iter().for_each(|timeout| put("timeout", timeout.into()));
        self.window.into_iter().for_each(|window| put("windowsize", window.into()));
        (packet.len() > 2).then_some(packet)
    }

    /// Bytes of a block.
    pub fn block(&self) -> u64 {
        self.block.unwrap_or(BLOCK).into()
    }

    /// Blocks in flight.
    pub fn window(&self) -> u64 {
        self.window.unwrap_or(1).into()
    }

    /// How long an acknowledgement is waited for the first time.
    pub fn patience(&self) -> Duration {
        self.timeout.map_or(Duration::from_millis(500), |seconds| Duration::from_secs(seconds.into()))
    }
}

/// What a client says while a file goes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It has everything up to this block, whose number is one of 16 bits.
    Acknowledgement(u16),
    /// It gives up.
    Error(String),
    /// Nothing that belongs here.
    Other,
}

impl Reply {
    /// Reads it.
    pub fn parse(packet: &[u8]) -> Self {
        match packet {
            [0, 4, high, low, ..] => Self::Acknowledgement(u16::from_be_bytes([*high, *low])),
            [0, 5, _, _, text @ ..] => {
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                Self::Error(String::from_utf8_lossy(text).into_owned())
            }
            _ => Self::Other,
        }
    }
}

/// An error's packet.
pub fn error(code: Code, text: &str) -> Vec<u8> {
    [&[0, 5, 0, code as u8], text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn firmware_asks_like_this() {
        let edk2 = b"\0\x01vmlinuz\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0";
        let request = Request::parse(edk2).unwrap();
        assert_eq!((request.file.as_str(), request.options.block()), ("vmlinuz", 1468));
        let answer = request.options.acknowledgement(42).unwrap();
        assert_eq!(answer, b"\0\x06blksize\x001468\0tsize\x0042\0windowsize\x004\0");
        let plain = Request::parse(b"\0\x01a\0OCTET\0").unwrap();
        assert_eq!((plain.options.acknowledgement(42), plain.options.block(), plain.options.window()), (None, 512, 1));
        let odd =
            Request::parse(b"\0\x01a\0octet\0BLKSIZE\x007\0multicast\0\0timeout\x000\0windowsize\x0070000\0x").unwrap();
        assert_eq!(odd.options, Options { window: Some(64), ..Options::default() });
        assert_eq!(Request::parse(b"\0\x01a\0octet\0blksize\x0099999\0").unwrap().options.block(), 65464);
    }

    #[test]
    fn what_is_no_request_for_reading_is_told_so_or_passed_over() {
        let code = |packet: &[u8]| match Request::parse(packet) {
            Err(Bad::Error(code, _)) => Some(code),
            _ => None,
        };
        assert_eq!(code(b"\0\x02a\0octet\0"), Some(Code::Access));
        assert_eq!(code(b"\0\x01a\0netascii\0"), Some(Code::Illegal));
        assert_eq!(code(b"\0\x01a"), Some(Code::Illegal));
        assert_eq!(code(b"\0\x01\xff\0octet\0"), Some(Code::Illegal));
        assert_eq!(code(&[&b"\0\x01"[..], &[b'a'; 600], b"\0octet\0"].concat()), Some(Code::Illegal));
        assert_eq!(Request::parse(b"\0\x05\0\x01x\0"), Err(Bad::Silence));
        assert_eq!(Request::parse(b""), Err(Bad::Silence));
    }

    proptest! {
        #[test]
        fn no_packet_ends_the_server(packet in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = (Request::parse(&packet), Reply::parse(&packet));
        }

        #[test]
        fn what_is_agreed_to_is_within_the_rfcs(
            file in "[ -~]{0,40}",
            options in proptest::collection::vec(
                ("(blksize|tsize|timeout|windowsize|x)", "([0-9]{0,12}|-1|\\PC{0,4})"), 0..6),
        ) {
            let mut packet = format!("\0\u{1}{file}\0octet\0");
            for (name, value) in options {
                packet += &format!("{name}\0{value}\0");
            }
            if let Ok(request) = Request::parse(packet.as_bytes()) {
                let options = request.options;
                prop_assert_eq!(request.file, file);
                prop_assert!((8..=65464).contains(&options.block()) && (1..=64).contains(&options.window()));
                prop_assert!(options.acknowledgement(u64::MAX).is_none_or(|packet| packet.len() <= 512));
            }
        }
    }
}
