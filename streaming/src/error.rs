//! What can go wrong in the engine, named by what the receiver must do.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine. Text as Postgres writes it: lower case, no period.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such job, relation or split.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense; with the SQLSTATE that Postgres would give.
    #[error("{message}")]
    Invalid {
        /// Five characters.
        sqlstate: &'static str,
        /// What and why.
        message: String,
    },
    /// Not there yet.
    #[error("{0}")]
    Unsupported(String),
    /// An outside system does not answer: try again.
    #[error("{0}")]
    Unavailable(String),
    /// The job failed and stays failed until it is dropped or resumed.
    #[error("{0}")]
    Failed(String),
    /// The request was cancelled.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// The store below.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// An [`Error::Invalid`].
    pub fn invalid(sqlstate: &'static str, message: impl Into<String>) -> Error {
        Error::Invalid { sqlstate, message: message.into() }
    }
}

impl storage::failpoint::Refused for Error {
    fn refused(step: &str) -> Error {
        Error::Unavailable(format!("fail point {step}"))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::Failed(error.to_string())
    }
}
