//! Messages of the extended protocol, put together by hand and sent at once.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::{APP_PASSWORD, APP_USER, Cluster, Komainu, Message, Wire};

/// A pipeline. Ends where the test says, with or without a Sync.
#[derive(Default)]
pub struct Pipeline {
    bytes: BytesMut,
}

impl Pipeline {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn parse(mut self, name: &str, sql: &str) -> Self {
        frontend::parse(name, sql, [], &mut self.bytes).unwrap();
        self
    }

    /// Parameters and results as text.
    pub fn bind(mut self, portal: &str, statement: &str, parameters: &[&str]) -> Self {
        let write = |value: &&str, buffer: &mut BytesMut| {
            buffer.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        frontend::bind(portal, statement, [], parameters, write, [], &mut self.bytes)
            .unwrap_or_else(|_| panic!("cannot bind {statement}"));
        self
    }

    /// A simple Query, with a ReadyForQuery of its own.
    pub fn query(mut self, sql: &str) -> Self {
        frontend::query(sql, &mut self.bytes).unwrap();
        self
    }

    /// Kind `S` for a statement, `P` for a portal.
    pub fn describe(mut self, kind: char, name: &str) -> Self {
        frontend::describe(kind as u8, name, &mut self.bytes).unwrap();
        self
    }

    /// At most `rows`, or all of them for 0.
    pub fn execute(mut self, portal: &str, rows: i32) -> Self {
        frontend::execute(portal, rows, &mut self.bytes).unwrap();
        self
    }

    pub fn close(mut self, kind: char, name: &str) -> Self {
        frontend::close(kind as u8, name, &mut self.bytes).unwrap();
        self
    }

    pub fn flush(mut self) -> Self {
        frontend::flush(&mut self.bytes);
        self
    }

    pub fn sync(mut self) -> Self {
        frontend::sync(&mut self.bytes);
        self
    }

    /// Bind, Execute and Sync of a statement, through the unnamed portal.
    pub fn run(self, statement: &str, parameters: &[&str]) -> Self {
        self.bind("", statement, parameters).execute("", 0).sync()
    }
}

impl Wire {
    pub fn send_pipeline(&mut self, pipeline: Pipeline) {
        self.send(&pipeline.bytes);
    }

    /// Sends a pipeline with one Sync at its end and reads up to its ReadyForQuery.
    #[track_caller]
    pub fn pipeline(&mut self, pipeline: Pipeline) -> Vec<Message> {
        self.send_pipeline(pipeline);
        self.until('Z')
    }

    /// The first column of the first row that a prepared statement returns.
    #[track_caller]
    pub fn run_prepared(&mut self, statement: &str, parameters: &[&str]) -> String {
        let messages = self.pipeline(Pipeline::new().run(statement, parameters));
        first_value(&messages).unwrap_or_else(|| panic!("{statement}: no row in {}", transcript(&messages)))
    }
}

/// The first column of the first row.
pub fn first_value(messages: &[Message]) -> Option<String> {
    messages.iter().find(|message| message.tag == 'D')?.columns().first()?.clone()
}

/// What a client sees, in words: to compare one conversation with another, and to show when they differ.
/// Leaves out ParameterStatus, whose place among the other messages is not fixed.
pub fn transcript(messages: &[Message]) -> String {
    let mut lines = Vec::new();
    for message in messages {
        lines.push(match message.tag {
            'S' => continue,
            'E' | 'N' => {
                let fields = ['S', 'C', 'M', 'D', 'H', 'P'].map(|tag| message.field(tag)).join(" | ");
                format!("{} {fields}", message.tag)
            }
            'D' => format!("D {:?}", message.columns()),
            tag => format!("{tag} {}", String::from_utf8_lossy(&message.body).escape_debug()),
        });
    }
    lines.join("\n")
}

/// Panics at the first line in which komainu's transcript differs from PostgreSQL's.
#[track_caller]
pub fn assert_same(komainu: &str, postgresql: &str) {
    let (ours, theirs): (Vec<_>, Vec<_>) = (komainu.lines().collect(), postgresql.lines().collect());
    if let Some(at) = (0..ours.len().max(theirs.len())).find(|&at| ours.get(at) != theirs.get(at)) {
        panic!(
            "they differ:\n   komainu: {:?}\nPostgreSQL: {:?}\nafter:\n{}",
            ours.get(at),
            theirs.get(at),
            theirs[at.saturating_sub(8)..at.min(theirs.len())].join("\n")
        );
    }
}

/// A conversation with PostgreSQL itself and the same through komainu must read the same. Returns it.
#[track_caller]
pub fn same_as_postgresql(
    komainu: &Komainu,
    database: &str,
    talk: impl Fn(&mut Wire) -> Vec<Message>,
) -> String {
    let mut direct = Wire::connect(Cluster::shared().primary().port());
    direct.login(APP_USER, APP_PASSWORD, database);
    let expected = transcript(&talk(&mut direct));
    let told = transcript(&talk(&mut komainu.login(database)));
    assert_same(&told, &expected);
    expected
}
