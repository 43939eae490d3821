//! Random requests, for the property tests beside this file and for the fuzz target of the encoder.

use larder_protocol::binary::opcode_of;
use larder_protocol::*;

/// The parts of a random request. It owns the bytes that a request borrows.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) kind: usize,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) numbers: [u64; 3],
    pub(crate) flags: u32,
    pub(crate) exptimes: [Option<i32>; 3],
    pub(crate) cas: [Option<u64>; 2],
    pub(crate) mode: StoreMode,
    pub(crate) switches: [bool; 4],
    pub(crate) opaque: String,
}

impl Draft {
    fn exptime(&self, i: usize) -> Option<Exptime> {
        self.exptimes[i].map(|seconds| Exptime(seconds.into()))
    }

    /// Returns a command that a meta command can express.
    pub(crate) fn meta_command(&self) -> Command<'_> {
        let (key, [compare_cas, set_cas], [a, b, c, d]) = (&self.key[..], self.cas, self.switches);
        match self.kind % 6 {
            0 => Command::Get(Get {
                keys: Keys::One(key),
                touch: self.exptime(0),
                vivify: self.exptime(1),
                recache: self.exptime(2),
                touch_vivified: c && self.exptimes[0].and(self.exptimes[1]).is_some(),
                recache_touched: d && self.exptimes[0].and(self.exptimes[2]).is_some(),
                set_cas,
                unless_cas: compare_cas,
                want_value: a,
                no_bump: b,
            }),
            1 => {
                let joins = matches!(self.mode, StoreMode::Append | StoreMode::Prepend);
                let compares = matches!(self.mode, StoreMode::Set | StoreMode::Replace) && compare_cas.is_some();
                Command::Store(Store {
                    key,
                    value: &self.value,
                    flags: self.flags,
                    exptime: self.exptime(0).unwrap_or(Exptime(0)),
                    mode: self.mode,
                    compare_cas,
                    set_cas: set_cas.filter(|&cas| cas != 0),
                    invalidate: a && compares,
                    vivify: self.exptime(1).filter(|_| joins),
                })
            }
            2 => Command::Delete(Delete {
                key,
                compare_cas,
                set_cas,
                invalidate: a,
                touch: self.exptime(0),
                remove_value: b,
                flags: self.flags,
            }),
            3 => Command::Arithmetic(Arithmetic {
                key,
                delta: self.numbers[0],
                direction: if a { Direction::Up } else { Direction::Down },
                vivify: self.exptime(0),
                initial: self.numbers[1],
                touch: self.exptime(1),
                touch_vivified: c && self.exptimes[0].and(self.exptimes[1]).is_some(),
                compare_cas: compare_cas.filter(|&cas| cas != 0),
                set_cas,
            }),
            4 => Command::Debug { key },
            _ => Command::Noop,
        }
    }

    /// Returns the meta request with that command and these flags of its reply.
    pub(crate) fn meta_request<'a>(&'a self, flags: &'a [u8]) -> Request<'a> {
        let command = self.meta_command();
        let kind = match &command {
            Command::Get(_) => MetaCommand::Get,
            Command::Store(_) => MetaCommand::Set,
            Command::Delete(_) => MetaCommand::Delete,
            Command::Arithmetic(_) => MetaCommand::Arithmetic,
            Command::Debug { .. } => MetaCommand::Debug,
            _ => MetaCommand::Noop,
        };
        let quiet = self.switches[3] && kind != MetaCommand::Debug;
        let reply = MetaReply { command: kind, flags, key: b"", quiet, value_len: 0 };
        Request { command, reply: Reply::Meta(reply) }
    }

    /// Returns a request that a classic line can express. `key` must be a [`Draft::text_key`].
    pub(crate) fn text_request<'a>(&'a self, key: &'a [u8]) -> Request<'a> {
        let [noreply, with_cas, touches, many] = self.switches;
        let exptime = self.exptime(0).unwrap_or(Exptime(0));
        let mut reply = TextReply { noreply, ..TextReply::default() };
        let command = match self.kind {
            0 | 1 => {
                reply = TextReply { with_cas, ..TextReply::default() };
                let keys = if many { Keys::Line(key) } else { Keys::One(key) };
                Command::Get(Get { touch: touches.then_some(exptime), ..Get::new(keys) })
            }
            2 | 3 => Command::Store(Store {
                flags: self.flags,
                exptime,
                compare_cas: self.cas[0].filter(|_| self.mode == StoreMode::Set),
                ..Store::new(self.mode, key, &self.value)
            }),
            4 => Command::Delete(Delete::new(key)),
            5 => {
                let direction = if touches { Direction::Up } else { Direction::Down };
                Command::Arithmetic(Arithmetic::new(direction, key, self.numbers[0]))
            }
            6 => Command::Touch { key, exptime },
            7 => Command::FlushAll { at: self.exptime(1) },
            8 => Command::Verbosity { level: self.flags },
            9 => Command::Admin(Admin::CacheMemlimit { mebibytes: self.flags.into() }),
            10 => Command::Admin(Admin::Words { name: b"lru_crawler", arguments: b"metadump all" }),
            _ => {
                reply = TextReply::default();
                if touches { Command::Version } else { Command::Stats { group: b"items" } }
            }
        };
        Request { command, reply: Reply::Text(reply) }
    }

    /// Returns a request that a packet can express.
    pub(crate) fn binary_request(&self) -> Request<'_> {
        let (key, [up, quiet, with_key, _]) = (&self.key[..], self.switches);
        let exptime = Exptime((self.numbers[2] as u32 - (self.numbers[2] as u32 == u32::MAX) as u32).into());
        let compare_cas = self.cas[0].filter(|&cas| cas != 0);
        let joins = matches!(self.mode, StoreMode::Append | StoreMode::Prepend);
        let command = match self.kind {
            0 | 1 => Command::Get(Get {
                touch: (self.kind == 1).then_some(exptime),
                want_value: self.kind == 0 || up,
                ..Get::new(Keys::One(key))
            }),
            2 | 3 => Command::Store(Store {
                flags: if joins { 0 } else { self.flags },
                exptime: if joins { Exptime(0) } else { exptime },
                compare_cas: compare_cas.filter(|_| self.mode != StoreMode::Add),
                ..Store::new(self.mode, key, &self.value)
            }),
            4 => Command::Delete(Delete { compare_cas, ..Delete::new(key) }),
            5 => {
                let direction = if up { Direction::Up } else { Direction::Down };
                Command::Arithmetic(Arithmetic {
                    vivify: with_key.then_some(exptime),
                    initial: self.numbers[1],
                    compare_cas,
                    ..Arithmetic::new(direction, key, self.numbers[0])
                })
            }
            6 => Command::Noop,
            7 => Command::FlushAll { at: up.then_some(exptime) },
            8 => Command::Verbosity { level: self.flags },
            9 => Command::Stats { group: key },
            10 => Command::Quit,
            _ if up => Command::Sasl(Sasl::Auth { mechanism: b"PLAIN", data: &self.value }),
            _ => Command::Version,
        };
        let opcode = opcode_of(&command, quiet, with_key).expect("binary has all of these");
        Request { reply: Reply::Binary(BinaryReply { opcode, opaque: self.flags }), command }
    }

    /// Returns the key without the bytes that a text line cannot hold.
    pub(crate) fn text_key(&self) -> Vec<u8> {
        let mut key: Vec<u8> = self.key.iter().copied().filter(|b| b.is_ascii_graphic()).collect();
        key.push(b'k');
        key.truncate(KEY_MAX_LEN);
        key
    }
}
