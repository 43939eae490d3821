//! The file that keeps the items while the node is stopped (`-e`).

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::StartError;
use crate::store::{Config, LoadError, Store, Time};

/// The file of `-e`.
///
/// It is there only while no node serves: a node that starts removes it before it serves, and one that stops in good
/// order writes another file and gives it this name when it is complete. So whatever ends a node, no later one finds
/// items that have been changed since.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    path: PathBuf,
    /// Where the node writes, and the file there. It is locked as long as the node lives.
    unfinished: PathBuf,
    file: File,
}

impl MemoryFile {
    /// Opens the file to write into when the node stops, so that a path that cannot be used is found now.
    pub(crate) fn open(path: &Path) -> Result<MemoryFile, StartError> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let failed = |error| StartError::Process { doing: format!("using {} (-e)", unfinished.display()), error };
        if path.is_dir() {
            return Err(StartError::Process {
                doing: format!("using {} (-e)", path.display()),
                error: io::ErrorKind::IsADirectory.into(),
            });
        }
        // Values are for nobody else.
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&unfinished).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(failed(io::Error::other("another node uses it"))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        Ok(MemoryFile { path: path.to_owned(), unfinished, file })
    }

    /// Returns a store with the items of the file, and removes the file. `None` if they do not come back: the log says
    /// why.
    ///
    /// # Errors
    ///
    /// The file cannot be removed. A later start would take old items from it. Or beside it is a `.meta` file of which
    /// even memcached, whose it would be, makes nothing.
    pub(crate) fn load(&self, config: &Config) -> Result<Option<Store>, StartError> {
        self.part_with_memcached()?;
        let started = Instant::now();
        let path = self.path.display();
        let store = match File::options().read(true).write(true).open(&self.path) {
            Ok(file) => Store::load(config, &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::info!("starting without items: there is no file {path}");
                return Ok(None);
            }
            Err(error) => Err(LoadError::Read(error)),
        };
        self.remove().map_err(|error| StartError::Process { doing: format!("removing {path} (-e)"), error })?;
        match store {
            Ok(store) => {
                let items = store.statistics().items;
                tracing::info!("{items} items came back from {path} in {:.3} s", started.elapsed().as_secs_f64());
                Ok(Some(store))
            }
            Err(LoadError::Store(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!("starting without items: {path} is not used: {error}");
                Ok(None)
            }
        }
    }

    /// Removes the `.meta` file of a memcached that was here before. With it the next memcached would take a file of this
    /// node for its own.
    fn part_with_memcached(&self) -> Result<(), StartError> {
        let mut meta = self.path.as_os_str().to_owned();
        meta.push(".meta");
        let meta = PathBuf::from(meta);
        let failed =
            |error| StartError::Process { doing: format!("using {} of memcached (-e)", meta.display()), error };
        match std::fs::read(&meta) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
            // Its first line is a tag.
            Ok(bytes) if bytes.first() == Some(&b'T') => {
                tracing::warn!("{} is memcached's, whose items do not come back here: removed", meta.display());
                std::fs::remove_file(&meta).map_err(failed)
            }
            Ok(_) => Err(failed(io::Error::other("it is empty or damaged; remove it"))),
        }
    }

    /// Removes the file, so that it stays removed if the machine fails.
    fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Writes the items of a node that has stopped serving. The store is empty afterwards.
    pub(crate) fn save(&self, store: &Store, now: Time) {
        let started = Instant::now();
        let items = store.statistics().items;
        let path = self.path.display();
        let saved = store.save(&self.file, now).and_then(|()| std::fs::rename(&self.unfinished, &self.path));
        match saved {
            Ok(()) => tracing::info!("{items} items are in {path} after {:.3} s", started.elapsed().as_secs_f64()),
            Err(error) => {
                tracing::error!("the items are lost, writing {}: {error}", self.unfinished.display());
                // An error is ignored: the next start empties the file.
                let _ = std::fs::remove_file(&self.unfinished);
            }
        }
    }
}
