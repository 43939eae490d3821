//! Commits, deliveries, beats, looks and fills of one key, step by step in random orders, on a real node.
//!
//! The protocol was searched in all orders, over 14,015,498 states, with a model of a node. Here the node is a real
//! one. Look-up, lease and fill are sent by the client as the meta commands that a reader sends, one at a time, so that
//! other steps can come between them. The beats ([`Beat`]) and a reader's conclusions from them ([`Seen`]) are the
//! crate's own. An order is a list of choices, and nothing else decides the outcome. Two leaders that may be paused
//! anywhere, writers that die after their commit, fillers between lease and fill, flushes, and evicted beats take part.
//!
//! The mutants show that the model can fail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use larder_client::{Client, OneNode};
use larder_node::{Server, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::beat::{Beat, Seen};
use crate::outbox::Member;

const TTL: Duration = Duration::from_secs(3600);

/// What is done otherwise than it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// One beat later is taken to be enough.
    OneBeat,
    /// A beat is set whoever has set one meanwhile.
    NoCas,
    /// A node is taken in without being flushed.
    NoFlush,
    /// A loaded value is set, not filled under its lease.
    PlainSet,
    /// Commits write nothing to the outbox.
    NoOutbox,
}

/// What a leader has done of a round.
#[derive(Debug, Clone, Default)]
enum Round {
    #[default]
    Idle,
    Read(Option<larder_client::Item>),
    Scanned(Option<larder_client::Item>, BTreeSet<u64>, Option<Member>),
    Delivered(Option<larder_client::Item>, BTreeSet<u64>),
}

/// What a filler has done.
#[derive(Debug, Clone, Copy)]
enum Fill {
    Idle,
    Leased(u64),
    Loaded(u64, u64),
}

struct World<'a> {
    client: &'a Client,
    node: &'a OneNode,
    mutant: Mutant,
    key: String,
    beat_key: String,
    version: u64,
    rows: BTreeSet<u64>,
    member: Option<Member>,
    leaders: [Round; 2],
    fills: [Fill; 2],
    /// Commits whose writer is still about to delete, and those whose writer has deleted and not cleaned up.
    deleting: BTreeSet<u64>,
    cleaning: BTreeSet<u64>,
    seen: Seen,
    /// The version that was committed when each look was sent.
    looks: Vec<(Instant, u64)>,
}

impl World<'_> {
    async fn step(&mut self, random: &mut StdRng) {
        match random.random_range(0..100u32) {
            0..8 => self.commit(),
            8..14 => self.writer_goes_on(random).await,
            14..54 => self.leader_goes_on(random.random_range(0..2)).await,
            54..68 => self.look().await,
            68..92 => self.filler_goes_on(random.random_range(0..2)).await,
            92..94 => self.node.delete_many(&[&self.beat_key]).await.unwrap(),
            94..96 => self.node.delete_many(&[&self.key, &self.beat_key]).await.unwrap(),
            96..98 => self.give_up(),
            _ => self.leaders[random.random_range(0..2)] = Round::Idle,
        }
    }

    fn commit(&mut self) {
        self.version += 1;
        if self.mutant != Mutant::NoOutbox && self.member.is_some() {
            self.rows.insert(self.version);
        }
        self.deleting.insert(self.version);
    }

    async fn writer_goes_on(&mut self, random: &mut StdRng) {
        if let Some(cleaned) = self.cleaning.pop_first() {
            self.rows.remove(&cleaned);
        } else if let Some(commit) = self.deleting.pop_first()
            && random.random_bool(0.3)
        {
            self.node.delete_many(&[&self.key]).await.unwrap();
            self.cleaning.insert(commit);
        }
    }

    /// Rows are kept for the node no longer.
    fn give_up(&mut self) {
        self.member = None;
        self.rows.clear();
    }

    async fn leader_goes_on(&mut self, number: usize) {
        self.leaders[number] = match std::mem::take(&mut self.leaders[number]) {
            Round::Idle => match self.member {
                None => {
                    self.member = Some(Member::Joining);
                    Round::Idle
                }
                Some(Member::Joining) => {
                    if self.mutant != Mutant::NoFlush {
                        self.node.delete_many(&[&self.key, &self.beat_key]).await.unwrap();
                    }
                    self.member = Some(Member::Covered);
                    Round::Idle
                }
                Some(Member::Covered) => Round::Read(self.node.peek(&self.beat_key).await.unwrap()),
            },
            Round::Read(beat) => Round::Scanned(beat, self.rows.clone(), self.member),
            Round::Scanned(beat, rows, Some(Member::Covered)) => {
                if !rows.is_empty() {
                    self.node.delete_many(&[&self.key]).await.unwrap();
                }
                Round::Delivered(beat, rows)
            }
            Round::Scanned(..) => Round::Idle,
            Round::Delivered(beat, rows) => {
                let value = |beat: Beat| beat.to_string();
                match beat {
                    None => _ = self.node.add(&self.beat_key, value(Beat::first()), TTL).await.unwrap(),
                    Some(item) => {
                        let next = value(Beat::parse(&item.value).unwrap().next());
                        if self.mutant == Mutant::NoCas {
                            self.client.set(&self.beat_key, next, TTL).await.unwrap();
                        } else {
                            self.node.cas(&self.beat_key, next, TTL, item.cas).await.unwrap();
                        }
                    }
                }
                rows.iter().for_each(|row| _ = self.rows.remove(row));
                Round::Idle
            }
        };
    }

    async fn look(&mut self) {
        // Two looks of one instant could not be told apart.
        let sent = self.looks.last().map_or_else(Instant::now, |(last, _)| *last + Duration::from_nanos(1));
        self.looks.push((sent, self.version));
        let beat = self.node.peek(&self.beat_key).await.unwrap();
        self.seen.note(sent, beat.and_then(|item| Beat::parse(&item.value)));
    }

    async fn filler_goes_on(&mut self, number: usize) {
        self.fills[number] = match self.fills[number] {
            Fill::Idle => {
                let reply = self.client.meta_get(&self.key).value().cas().vivify(TTL).send().await.unwrap();
                match reply.won {
                    true => Fill::Leased(reply.cas),
                    false => Fill::Idle,
                }
            }
            Fill::Leased(lease) => Fill::Loaded(lease, self.version),
            Fill::Loaded(lease, version) => {
                let value = version.to_string();
                if self.mutant == Mutant::PlainSet {
                    self.client.set(&self.key, value, TTL).await.unwrap();
                } else {
                    self.client.meta_set(&self.key, value).ttl(TTL).cas(lease).send().await.unwrap();
                }
                Fill::Idle
            }
        };
    }

    /// Whether the cache holds a value older than what the reader knows to have been delivered.
    async fn is_old(&self) -> bool {
        let Some(as_of) = self.seen.as_of() else { return false };
        let committed = self.looks.iter().find(|(sent, _)| *sent == as_of).map(|(_, version)| *version).unwrap();
        let cached = self.client.get(&self.key).await.unwrap();
        cached.is_some_and(|cached| std::str::from_utf8(&cached).unwrap().parse::<u64>().unwrap() < committed)
    }
}

/// The first of so many random orders that shows an old value to a strict reader.
async fn first_old_value(mutant: Mutant, orders: u64) -> Option<u64> {
    let mut settings = Settings::default();
    (settings.port, settings.threads) = (Some(-1), 1);
    let server = Server::start(settings).unwrap();
    let builder = Client::builder().server(server.addresses()[0].to_string()).timeout(Duration::from_secs(60));
    let client = builder.build().unwrap();
    let node = &client.every_node()[0];
    for seed in 0..orders {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World {
            client: &client,
            node,
            mutant,
            key: format!("k{seed}"),
            beat_key: crate::beat::beat_key(&seed.to_string()),
            version: 0,
            rows: BTreeSet::new(),
            member: None,
            leaders: Default::default(),
            fills: [Fill::Idle; 2],
            deleting: BTreeSet::new(),
            cleaning: BTreeSet::new(),
            seen: if mutant == Mutant::OneBeat { Seen::after(1) } else { Seen::default() },
            looks: Vec::new(),
        };
        for _ in 0..150 {
            world.step(&mut random).await;
            if world.is_old().await {
                return Some(seed);
            }
        }
    }
    None
}

#[tokio::test]
async fn no_random_order_shows_a_strict_reader_an_old_value() {
    assert_eq!(first_old_value(Mutant::None, 500).await, None);
}

#[tokio::test]
async fn each_rule_of_the_protocol_is_needed() {
    for mutant in [Mutant::OneBeat, Mutant::NoCas, Mutant::NoFlush, Mutant::PlainSet, Mutant::NoOutbox] {
        let order = first_old_value(mutant, 5000).await;
        println!("{mutant:?}: old in order {order:?}");
        assert!(order.is_some(), "{mutant:?} shows nothing");
    }
}
