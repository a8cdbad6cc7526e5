//! What can go wrong in the store, named by what the receiver must do.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store. Text as Postgres writes it: lower case, no period, the file named.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The directory is in use by another server, or was made by a newer version.
    #[error("{0}")]
    Conflict(String),
    /// A file does not hold what was written to it.
    #[error("{0}")]
    Corrupt(String),
    /// The disk is full.
    #[error("{0}")]
    DiskFull(String),
    /// Not there yet.
    #[error("{0}")]
    Unsupported(String),
    /// Any other failure of the file system.
    #[error("{0}")]
    Io(String),
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::Corrupt(error.to_string())
    }
}
