//! A command that runs in a guest: what `thimblectl exec`, the node daemon between, and the guest's PID 1 say to each other over
//! one connection, from the API's to the guest's socket device (port [`PORT`]).
//!
//! Either side sends frames: a byte that says what kind, two with the length of what follows (the lower first), and that.
//!
//! | kind | from | what follows |
//! | --- | --- | --- |
//! | `R` | client | the command ([`Command`]), once and first |
//! | `i` | client | bytes that it reads; none: there are no more |
//! | `w` | client | the size of its terminal from now on: rows and columns, two bytes each, the lower first |
//! | `o`, `e` | guest | bytes that it wrote to its output, to its error output |
//! | `x` | guest | how it ended, and the last frame: a byte, as a shell has it (`$?`) |
//! | `?` | guest | why it does not run, and the last frame: a byte, 126 or 127 as of a shell, and a sentence |
//!
//! A connection that ends before ends the command. Neither side believes the other: a frame is bounded by [`PAYLOAD_MAX`], and
//! what is no frame is an [`ExecError`], behind which nothing is read any more.

use std::collections::BTreeMap;

use thiserror::Error;

/// Where a guest's PID 1 listens on its socket device. Ports below 1024 are for who may have them (`CAP_NET_BIND_SERVICE`,
/// net/vmw_vsock/af_vsock.c), so that no other program of the guest takes it.
pub const PORT: u32 = 1;
/// Most bytes behind a frame's head.
pub const PAYLOAD_MAX: usize = 32 << 10;
/// Bytes of a frame's head.
const HEAD: usize = 3;
/// What a command that was ended by a signal adds to the signal's number, as shells do.
pub const SIGNALLED: i32 = 128;
/// The exit status for a command that is there and cannot be run (POSIX, "Exit Status for Commands").
pub const NOT_RUN: u8 = 126;
/// The exit status for a command that is not there.
pub const NOT_FOUND: u8 = 127;

/// A command that is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The program, by its path or by a name that is looked for, and its arguments.
    pub arguments: Vec<String>,
    /// Variables beside those that every program of the guest has.
    pub environment: BTreeMap<String, String>,
    /// Rows and columns of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
}

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// What is to be run.
    Run(Command),
    /// What it reads; nothing is its end.
    Input(Vec<u8>),
    /// Rows and columns of its terminal.
    Size(u16, u16),
    /// What it wrote.
    Output(Vec<u8>),
    /// What it wrote of errors.
    Errors(Vec<u8>),
    /// It has ended, with this status.
    Ended(u8),
    /// It does not run: the status that a shell would give, and why.
    Refused(u8, String),
}

/// It is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is not what is said about a command in a guest")]
pub struct ExecError;

impl Frame {
    /// Its bytes.
    ///
    /// # Errors
    /// It has more than a frame holds, or a text with a zero byte in it.
    pub fn write(&self) -> Result<Vec<u8>, ExecError> {
        let mut bytes = vec![0; HEAD];
        let kind = match self {
            Self::Run(command) => {
                command.write(&mut bytes)?;
                b'R'
            }
            Self::Input(data) => put(&mut bytes, b'i', data),
            Self::Size(rows, columns) => {
                bytes.extend(rows.to_le_bytes());
                put(&mut bytes, b'w', &columns.to_le_bytes())
            }
            Self::Output(data) => put(&mut bytes, b'o', data),
            Self::Errors(data) => put(&mut bytes, b'e', data),
            Self::Ended(status) => put(&mut bytes, b'x', &[*status]),
            Self::Refused(status, why) => {
                bytes.push(*status);
                put(&mut bytes, b'?', why.as_bytes())
            }
        };
        let length = bytes.len() - HEAD;
        if length > PAYLOAD_MAX {
            return Err(ExecError);
        }
        let [low, high, ..] = length.to_le_bytes();
        bytes[..HEAD].copy_from_slice(&[kind, low, high]);
        Ok(bytes)
    }

    fn read(kind: u8, payload: &[u8]) -> Result<Self, ExecError> {
        Ok(match (kind, payload) {
            (b'R', _) => Self::Run(Command::read(payload)?),
            (b'i', _) => Self::Input(payload.to_vec()),
            (b'w', &[a, b, c, d]) => Self::Size(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            (b'o', _) => Self::Output(payload.to_vec()),
            (b'e', _) => Self::Errors(payload.to_vec()),
            (b'x', &[status]) => Self::Ended(status),
            (b'?', [status, why @ ..]) => Self::Refused(*status, text(why)?),
            _ => return Err(ExecError),
        })
    }
}

fn put(bytes: &mut Vec<u8>, kind: u8, data: &[u8]) -> u8 {
    bytes.extend_from_slice(data);
    kind
}

fn text(bytes: &[u8]) -> Result<String, ExecError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ExecError)
}

impl Command {
    /// Rows and columns (none for both: no terminal), how many arguments, each two bytes; the arguments and then the variables
    /// (`NAME=VALUE`), a zero byte behind each.
    fn write(&self, bytes: &mut Vec<u8>) -> Result<(), ExecError> {
        let (rows, columns) = self.terminal.unwrap_or_default();
        let count = u16::try_from(self.arguments.len()).map_err(|_| ExecError)?;
        if count == 0 || self.terminal == Some((0, 0)) {
            return Err(ExecError);
        }
        for number in [rows, columns, count] {
            bytes.extend(number.to_le_bytes());
        }
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        if self.environment.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Err(ExecError);
        }
        for word in self.arguments.iter().cloned().chain(variables) {
            if word.contains('\0') {
                return Err(ExecError);
            }
            bytes.extend(word.as_bytes());
            bytes.push(0);
        }
        Ok(())
    }

    fn read(payload: &[u8]) -> Result<Self, ExecError> {
        let [a, b, c, d, e, f, words @ ..] = payload else { return Err(ExecError) };
        let size = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
        let count = usize::from(u16::from_le_bytes([*e, *f]));
        let words = text(words)?;
        let words: Vec<&str> = words.strip_suffix('\0').ok_or(ExecError)?.split('\0').collect();
        let (arguments, variables) = words.split_at_checked(count).ok_or(ExecError)?;
        let pair = |variable: &&str| match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(ExecError),
        };
        if arguments.is_empty() {
            return Err(ExecError);
        }
        Ok(Self {
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment: variables.iter().map(pair).collect::<Result<_, _>>()?,
            terminal: (size != (0, 0)).then_some(size),
        })
    }
}

/// Bytes as they come, put together to frames.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// Takes bytes. Between two calls of [`Self::take`] that found nothing, no more than a few pieces should be given: they are
    /// kept.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// What comes is none, and never will be.
    pub fn take(&mut self) -> Result<Option<Frame>, ExecError> {
        let &[kind, low, high, ref rest @ ..] = self.0.as_slice() else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes([low, high]));
        if length > PAYLOAD_MAX {
            return Err(ExecError);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::read(kind, payload)?;
        self.0.drain(..HEAD + length);
        Ok(Some(frame))
    }

    /// What came behind the last frame that was taken.
    pub fn rest(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shell() -> Command {
        Command {
            arguments: vec!["sh".to_owned(), "-c".to_owned(), "echo \"$A\"".to_owned(), String::new()],
            environment: [("A".to_owned(), "b = c".to_owned())].into(),
            terminal: Some((24, 80)),
        }
    }

    fn all(mut frames: Frames) -> Result<Vec<Frame>, ExecError> {
        std::iter::from_fn(|| frames.take().transpose()).take(1000).collect()
    }

    #[test]
    fn the_bytes_are_a_contract() {
        let bytes = |frame: Frame| frame.write().unwrap();
        assert_eq!(bytes(Frame::Input(vec![])), b"i\0\0");
        assert_eq!(bytes(Frame::Output(b"abc".to_vec())), b"o\x03\0abc");
        assert_eq!(bytes(Frame::Errors(vec![7; 300]))[..4], *b"e\x2c\x01\x07");
        assert_eq!(bytes(Frame::Size(24, 300)), b"w\x04\0\x18\0\x2c\x01");
        assert_eq!(bytes(Frame::Ended(130)), b"x\x01\0\x82");
        assert_eq!(bytes(Frame::Refused(NOT_FOUND, "no".to_owned())), b"?\x03\0\x7fno");
        let command = Command { environment: [("A".to_owned(), "b".to_owned())].into(), ..shell() };
        assert_eq!(bytes(Frame::Run(command)), b"R\x1b\0\x18\0\x50\0\x04\0sh\0-c\0echo \"$A\"\0\0A=b\0");
    }

    #[test]
    fn what_cannot_be_said_is_not() {
        let run = |change: fn(&mut Command)| {
            let mut command = shell();
            change(&mut command);
            Frame::Run(command).write()
        };
        assert!(run(|_| {}).is_ok());
        assert_eq!(run(|it| it.arguments.clear()), Err(ExecError));
        assert_eq!(run(|it| it.terminal = Some((0, 0))), Err(ExecError));
        assert_eq!(run(|it| it.arguments.push("a\0b".to_owned())), Err(ExecError));
        assert_eq!(run(|it| it.arguments.push("x".repeat(PAYLOAD_MAX))), Err(ExecError));
        assert_eq!(run(|it| drop(it.environment.insert("A=".to_owned(), String::new()))), Err(ExecError));
        assert_eq!(Frame::Output(vec![0; PAYLOAD_MAX + 1]).write(), Err(ExecError));
    }

    #[test]
    fn what_is_no_frame_is_not_read() {
        for bytes in [
            b"z\0\0".as_slice(),
            b"o\x01\x80x",
            b"x\0\0",
            b"x\x02\0ab",
            b"w\x03\0abc",
            b"?\0\0",
            b"R\x06\0\0\0\0\0\0\0",
            b"R\x08\0\0\0\0\0\0\0a\0",
            b"R\x08\0\0\0\0\0\x02\0a\0",
            b"R\x07\0\0\0\0\0\x01\0a",
            b"R\x0a\0\0\0\0\0\x01\0a\0b\0",
        ] {
            assert_eq!(Frames(bytes.to_vec()).take(), Err(ExecError), "{bytes:?}");
        }
        assert_eq!(Frames(b"o\x02\0x".to_vec()).take(), Ok(None));
    }

    prop_compose! {
        fn commands()(
            arguments in prop::collection::vec("[^\0]{0,20}", 1..6),
            environment in prop::collection::btree_map("[^\0=]{1,9}", "[^\0]{0,20}", 0..4),
            terminal in prop::option::of((1..=u16::MAX, any::<u16>())),
        ) -> Command {
            Command { arguments, environment, terminal }
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(command in commands(), data in any::<Vec<u8>>(), cuts in prop::collection::vec(1usize..50, 1..50)) {
            let said = vec![Frame::Run(command), Frame::Input(data.clone()), Frame::Size(1, 2), Frame::Errors(data), Frame::Ended(3)];
            let bytes: Vec<u8> = said.iter().flat_map(|frame| frame.write().unwrap()).collect();
            let (mut frames, mut heard, mut rest) = (Frames::default(), Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                frames.feed(piece);
                rest = after;
                while let Some(frame) = frames.take().unwrap() {
                    heard.push(frame);
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(heard, said);
        }

        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            if let Ok(heard) = all(Frames(bytes)) {
                for frame in heard {
                    let again = frame.write().unwrap();
                    prop_assert_eq!(all(Frames(again)), Ok(vec![frame]));
                }
            }
        }
    }
}
