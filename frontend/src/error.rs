//! What a client is told: the one table from every crate's error to SQLSTATE, message, detail, hint and position.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The connection ends.
    Fatal,
    /// The statement failed.
    Error,
    /// The statement did something surprising.
    Warning,
    /// Something worth saying.
    Notice,
    /// What only somebody who asks for it wants to hear.
    Info,
}

impl Severity {
    /// As Postgres calls it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Fatal => "FATAL",
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Info => "INFO",
        }
    }
}

/// An error or a notice as Postgres words it.
#[derive(Clone, Debug)]
pub struct Error(Box<Fields>);

/// The fields of an error.
#[derive(Clone, Debug)]
pub struct Fields {
    /// How bad it is.
    pub severity: Severity,
    /// Five characters.
    pub sqlstate: String,
    /// Lower case, no period.
    pub message: String,
    /// More about it, whole sentences.
    pub detail: Option<String>,
    /// What to do about it, whole sentences.
    pub hint: Option<String>,
    /// What the server was doing, such as the line of a COPY.
    pub context: Option<String>,
    /// Which of the rows that were written is refused.
    pub row: Option<usize>,
    /// Where in the statement's text, in characters from 1.
    pub position: Option<usize>,
    /// The schema, table, column and constraint that a constraint violation concerns.
    pub schema: Option<String>,
    /// See `schema`.
    pub table: Option<String>,
    /// See `schema`.
    pub column: Option<String>,
    /// See `schema`.
    pub constraint: Option<String>,
}

impl Error {
    /// An error of the statement.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Error {
        Error::with_severity(Severity::Error, sqlstate, message)
    }

    /// An error that ends the connection.
    pub fn fatal(sqlstate: &str, message: impl Into<String>) -> Error {
        Error::with_severity(Severity::Fatal, sqlstate, message)
    }

    /// A notice.
    pub fn notice(message: impl Into<String>) -> Error {
        Error::with_severity(Severity::Notice, "00000", message)
    }

    /// A warning.
    pub fn warning(sqlstate: &str, message: impl Into<String>) -> Error {
        Error::with_severity(Severity::Warning, sqlstate, message)
    }

    /// What this server does not do (yet).
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new("0A000", message)
    }

    /// The user asked for it.
    pub fn cancelled() -> Error {
        Error::new("57014", "canceling statement due to user request")
    }

    /// A transaction writes more than there may be memory for.
    pub fn too_much_written(max: usize) -> Error {
        Error::new("53200", "out of memory")
            .detail(format!("A transaction may write at most {} MB.", max >> 20))
            .hint("Write in several transactions, or raise --transaction-bytes-max.")
    }

    /// The server stops, or somebody ended the connection.
    pub fn terminated() -> Error {
        Error::fatal("57P01", "terminating connection due to administrator command")
    }

    /// The statement takes longer than it may.
    pub fn late() -> Error {
        Error::new("57014", "canceling statement due to statement timeout")
    }

    fn with_severity(severity: Severity, sqlstate: &str, message: impl Into<String>) -> Error {
        Error(Box::new(Fields {
            severity,
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            row: None,
            position: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
        }))
    }

    /// Adds the detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds what the server was doing.
    pub fn context(mut self, context: impl Into<String>) -> Error {
        self.0.context = Some(context.into());
        self
    }

    /// Adds which of the rows that were written is refused.
    pub fn row(mut self, row: usize) -> Error {
        self.0.row = Some(row);
        self
    }

    /// Adds the position.
    pub fn position(mut self, position: Option<usize>) -> Error {
        self.0.position = position;
        self
    }

    /// Adds what a constraint violation concerns.
    pub fn constraint(mut self, schema: &str, table: &str, column: Option<&str>, constraint: Option<&str>) -> Error {
        self.0.schema = Some(schema.to_owned());
        self.0.table = Some(table.to_owned());
        self.0.column = column.map(str::to_owned);
        self.0.constraint = constraint.map(str::to_owned);
        self
    }

    /// Moves the position by `chars`: a statement's position in a string of several.
    pub fn shifted(mut self, chars: usize) -> Error {
        if let Some(position) = &mut self.0.position {
            *position += chars;
        }
        self
    }

    /// The fields.
    pub fn fields(&self) -> &Fields {
        &self.0
    }

    /// Whether the connection ends.
    pub fn is_fatal(&self) -> bool {
        self.0.severity == Severity::Fatal
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Error {
        use storage::Error::*;
        let sqlstate = match &error {
            NotFound(_) => "42704",
            Conflict(_) => "55006",
            Corrupt(_) => "XX001",
            DiskFull(_) => "53100",
            Io(_) => "58030",
            Unsupported(_) => "0A000",
        };
        Error::new(sqlstate, error.to_string())
    }
}

impl From<streaming::Error> for Error {
    fn from(error: streaming::Error) -> Error {
        use streaming::Error::*;
        let sqlstate = match &error {
            NotFound(_) => "42704",
            Invalid { sqlstate, .. } => sqlstate,
            Unsupported(_) => "0A000",
            Unavailable(_) => "08006",
            Failed(_) => "55000",
            Cancelled => "57014",
            Storage(inner) => return inner.clone().into(),
        };
        // Connectors put what helps behind the message.
        let text = error.to_string();
        match text.split_once("\nHINT:  ") {
            Some((message, hint)) => Error::new(sqlstate, message).hint(hint),
            None => Error::new(sqlstate, text),
        }
    }
}

impl From<planner::Error> for Error {
    fn from(error: planner::Error) -> Error {
        let mut own = Error::new(error.sqlstate, error.message).position(error.position);
        own.0.detail = error.detail;
        own.0.hint = error.hint;
        own
    }
}

impl From<streaming::expr::EvalError> for Error {
    fn from(error: streaming::expr::EvalError) -> Error {
        Error::new(error.sqlstate, error.message)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        planner::Error::from(error).into()
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::fatal("08006", error.to_string())
    }
}
