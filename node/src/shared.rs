//! The state that all workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::commands::crawler::Crawler;
use crate::commands::events::{Topics, Watchers};
use crate::config::settings::Settings;
use crate::error::StartError;
use crate::log;
use crate::memory_file::MemoryFile;
use crate::net::auth::Users;
use crate::net::connection_limit::Connections;
use crate::net::open_sockets::Sockets;
use crate::net::tls::Tls;
use crate::statistics::counters::Counters;
use crate::statistics::prefixes::Prefixes;
use crate::store::{Config, Store};

/// The state that all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) workers: Vec<Arc<Counters>>,
    pub(crate) connections: Connections,
    /// Users that may log in; `None` if the node asks for no login.
    pub(crate) users: Option<Users>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Notified when a client sends `shutdown`.
    pub(crate) shutdown: Notify,
    pub(crate) stop: watch::Receiver<bool>,
    /// Set once the node is about to stop or to leave its cluster.
    pub(crate) draining: AtomicBool,
    /// The node's part in a cluster, if it is in one.
    pub(crate) cluster: Option<Arc<Cluster>>,
    verbosity: AtomicU32,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) prefixes: Prefixes,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) crawler: Crawler,
    /// The file that keeps the items while the node is stopped (`-e`).
    pub(crate) memory_file: Option<MemoryFile>,
    /// Rounds of background work.
    pub(crate) maintenance: AtomicU64,
}

impl Shared {
    /// Creates the state of a node that is about to serve.
    pub(crate) fn new(
        settings: Settings,
        users: Option<Users>,
        tls: Option<Arc<Tls>>,
        stop: watch::Receiver<bool>,
        cluster: Option<Arc<Cluster>>,
    ) -> Result<Shared, StartError> {
        let clock = Clock::start();
        let config = Config {
            memory_limit: settings.memory_limit(),
            item_size_max: settings.item_size_max,
            eviction: settings.eviction(),
            now: clock.now(),
        };
        let memory_file = settings.memory_file.as_deref().map(MemoryFile::open).transpose()?;
        let kept = memory_file.as_ref().map(|file| file.load(&config)).transpose()?.flatten();
        Ok(Shared {
            store: kept.map_or_else(|| Store::new(&config), Ok)?,
            memory_file,
            workers: (0..settings.threads).map(|_| Arc::new(Counters::default())).collect(),
            verbosity: AtomicU32::new(settings.verbosity.into()),
            sockets: Arc::default(),
            prefixes: Prefixes::new(settings.prefix_delimiter),
            watchers: Arc::new(Watchers::new(settings.extended.watcher_buffer)),
            crawler: Crawler::new(settings.extended.lru_crawler),
            maintenance: AtomicU64::new(0),
            settings,
            clock,
            connections: Connections::default(),
            users,
            tls,
            shutdown: Notify::new(),
            stop,
            draining: AtomicBool::new(false),
            cluster,
        })
    }

    /// Whether commands are counted by prefix or watched.
    #[inline]
    pub(crate) fn observed(&self) -> bool {
        self.watchers.wants(Topics::COMMANDS) | self.prefixes.on()
    }

    /// Returns a CAS unique as clients may see it: with -C it is 0, which no comparison matches.
    #[inline]
    pub(crate) fn visible_cas(&self, cas: u64) -> u64 {
        if self.settings.no_cas { 0 } else { cas }
    }

    pub(crate) fn set_verbosity(&self, level: u32) {
        self.verbosity.store(level, Ordering::Relaxed);
        log::set_verbosity(level);
    }

    pub(crate) fn verbosity(&self) -> u32 {
        self.verbosity.load(Ordering::Relaxed)
    }
}
