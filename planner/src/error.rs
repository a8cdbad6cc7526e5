//! What is wrong with a statement, in Postgres' words and with Postgres' code.

use datafusion::error::DataFusionError;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a statement. Text as Postgres writes it: lower case, no period, the object named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Five characters.
    pub sqlstate: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where in the statement's text: characters, the first is 1.
    pub position: Option<usize>,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Error {
    /// An error with a SQLSTATE.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Error {
        Error { sqlstate, message: message.into(), position: None, detail: None, hint: None }
    }

    /// Something that is not there yet (0A000).
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new("0A000", message)
    }

    /// Points at a place of the statement, unless a more precise one is known.
    pub fn at(mut self, position: usize) -> Error {
        self.position.get_or_insert(position);
        self
    }

    /// Adds a detail.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Error {
        from_datafusion(&error)
    }
}

/// The innermost error that carries a SQLSTATE.
fn from_datafusion(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => {
            if let Some(ours) = inner.downcast_ref::<Error>() {
                return ours.clone();
            }
            if let Some(inner) = inner.downcast_ref::<streaming::Error>() {
                return inner.clone().into();
            }
            if let Some(inner) = inner.downcast_ref::<storage::Error>() {
                return inner.clone().into();
            }
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => return from_datafusion(inner),
        DataFusionError::Shared(inner) => return from_datafusion(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => return from_datafusion(&errors[0]),
        _ => (),
    }
    let (sqlstate, message) = streaming::expr::sqlstate_of(error);
    if sqlstate == "53200" {
        return Error::new("53200", "out of memory")
            .with_detail(message)
            .with_hint("All reads share --read-memory-bytes. Sorts and aggregates spill beyond it; joins and ORDER BY with LIMIT do not.");
    }
    // DataFusion checks by itself that a scalar subquery has one row.
    if sqlstate == "XX000" && message.contains("async functions should not be called directly") {
        let error = Error::unsupported("a function that waits can only be called in a select list and in WHERE");
        return error.with_hint("Call it in a statement of its own.");
    }
    if sqlstate == "XX000" && message.contains("Scalar subquery returned more than one row") {
        return Error::new("21000", "more than one row returned by a subquery used as an expression");
    }
    Error::new(sqlstate, message)
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        DataFusionError::from(error).into()
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Error {
        let sqlstate = match error {
            storage::Error::DiskFull(_) => "53100",
            storage::Error::Corrupt(_) => "XX001",
            _ => "58030",
        };
        Error::new(sqlstate, error.to_string())
    }
}

impl From<streaming::Error> for Error {
    fn from(error: streaming::Error) -> Error {
        let sqlstate = match &error {
            streaming::Error::Invalid { sqlstate, .. } => sqlstate,
            streaming::Error::NotFound(_) => "42704",
            streaming::Error::Unsupported(_) => "0A000",
            streaming::Error::Unavailable(_) => "08001",
            streaming::Error::Cancelled => "57014",
            _ => "XX000",
        };
        Error::new(sqlstate, error.to_string())
    }
}

impl From<streaming::expr::EvalError> for Error {
    fn from(error: streaming::expr::EvalError) -> Error {
        let hint = hint_of(&error).map(str::to_string);
        Error { hint, ..Error::new(error.sqlstate, error.message) }
    }
}

/// Postgres' hint for a call that no function, or no single one, answers to.
pub fn hint_of(error: &streaming::expr::EvalError) -> Option<&'static str> {
    let operator = error.message.starts_with("operator");
    match error.sqlstate {
        "42883"
            if operator
                && error.message["operator does not exist: ".len()..].starts_with(['-', '+', '~', '@', '|']) =>
        {
            Some("No operator matches the given name and argument type. You might need to add an explicit type cast.")
        }
        "42883" if operator => {
            Some("No operator matches the given name and argument types. You might need to add explicit type casts.")
        }
        "42883" => {
            Some("No function matches the given name and argument types. You might need to add explicit type casts.")
        }
        "42725" if operator => {
            Some("Could not choose a best candidate operator. You might need to add explicit type casts.")
        }
        "42725" => Some("Could not choose a best candidate function. You might need to add explicit type casts."),
        _ => None,
    }
}
