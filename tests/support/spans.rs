//! Runs shims over scripts of inputs and compares what they mark.

use proptest::test_runner::{Config, FileFailurePersistence};
use wanigan::fault::OpaqueReason;
use wanigan::object::Object;
use wanigan::shim::{Shim, Span, SpanKind};
use wanigan_parsers::Direction;

/// Inputs of a flow in the order in which they cross the proxy.
pub(crate) type Script = Vec<(Direction, Vec<u8>)>;

/// What a shim marked in each direction, adjacent spans of one kind merged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) to_server: Vec<Span>,
    pub(crate) to_client: Vec<Span>,
}

impl Marks {
    /// Returns the spans of one direction.
    pub(crate) fn of(&self, direction: Direction) -> &[Span] {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    /// Returns the content spans of one direction with their places in the stream.
    pub(crate) fn content(&self, direction: Direction) -> Vec<(usize, u64, usize)> {
        let mut at = 0;
        let mut content = Vec::new();
        for span in self.of(direction) {
            if let SpanKind::Content { offset, .. } = span.kind {
                content.push((at, offset, span.len));
            }
            at += span.len;
        }
        content
    }

    /// Returns how many bytes of one direction are content.
    pub(crate) fn content_bytes(&self, direction: Direction) -> usize {
        self.content(direction).iter().map(|content| content.2).sum()
    }

    /// Returns the objects of the content spans of one direction.
    pub(crate) fn objects(&self, direction: Direction) -> Vec<Option<Object>> {
        let spans = self.of(direction).iter();
        spans
            .filter_map(|span| match span.kind {
                SpanKind::Content { object, .. } => Some(object),
                SpanKind::Opaque(_) => None,
            })
            .collect()
    }

    /// Returns the same without what content belongs to, and where that ends.
    pub(crate) fn without_objects(mut self) -> Self {
        for span in self.to_server.iter_mut().chain(&mut self.to_client) {
            if let SpanKind::Content { end, object, .. } = &mut span.kind {
                (*end, *object) = (false, None);
            }
        }
        self
    }

    /// Returns how many bytes of both directions are opaque for a reason.
    pub(crate) fn opaque_bytes(&self, reason: OpaqueReason) -> usize {
        let both = self.to_server.iter().chain(&self.to_client);
        both.filter(|span| span.kind == SpanKind::Opaque(reason)).map(|span| span.len).sum()
    }
}

/// Feeds a script to a shim, checks that the spans of each input partition it, and merges them.
#[track_caller]
pub(crate) fn run(shim: &mut dyn Shim, script: &[(Direction, Vec<u8>)]) -> Marks {
    let mut marks = Marks::default();
    // Left in place, for a shim only ever appends.
    let earlier = Span::opaque(7, OpaqueReason::Framing);
    for (direction, input) in script {
        let mut spans = vec![earlier];
        shim.handle_input(*direction, input, &mut spans);
        assert_eq!(spans.remove(0), earlier);
        assert!(spans.iter().all(|span| span.len > 0), "a span is empty: {spans:?}");
        assert_eq!(
            spans.iter().map(|span| span.len).sum::<usize>(),
            input.len(),
            "{spans:?} do not partition"
        );
        let merged = match direction {
            Direction::ToServer => &mut marks.to_server,
            Direction::ToClient => &mut marks.to_client,
        };
        for span in spans {
            merge(merged, span);
        }
    }
    marks
}

/// Runs a script whole, a byte at a time and split at every offset of every input, and checks that it makes no
/// difference.
#[track_caller]
pub(crate) fn run_in_all_cuts<S: Shim>(new: impl Fn() -> S, script: &[(Direction, Vec<u8>)]) -> Marks {
    let whole = run(&mut new(), script);
    let bytes: Script = script
        .iter()
        .flat_map(|(direction, input)| input.iter().map(|byte| (*direction, vec![*byte])))
        .collect();
    assert_eq!(run(&mut new(), &bytes), whole, "a byte at a time");
    let longest = script.iter().map(|(_, input)| input.len()).max().unwrap_or(0);
    for at in 1..longest {
        let split: Script =
            script.iter().flat_map(|(direction, input)| halves(*direction, input, at)).collect();
        assert_eq!(run(&mut new(), &split), whole, "split at {at}");
    }
    whole
}

/// Returns a configuration that keeps failing seeds beside the test, in a file that is committed with the fix.
pub(crate) fn proptest_config(cases: u32) -> Config {
    let beside = FileFailurePersistence::WithSource("regressions");
    Config { cases, failure_persistence: Some(Box::new(beside)), ..Config::default() }
}

/// Cuts one input in two at `at`, if it is that long.
fn halves(direction: Direction, input: &[u8], at: usize) -> Script {
    match input.split_at_checked(at) {
        Some((first, second)) => vec![(direction, first.to_vec()), (direction, second.to_vec())],
        None => vec![(direction, input.to_vec())],
    }
}

/// Appends a span, as part of the last one if it goes on with it.
fn merge(spans: &mut Vec<Span>, span: Span) {
    if let Some(last) = spans.last_mut() {
        let joined = match (last.kind, span.kind) {
            (SpanKind::Opaque(a), SpanKind::Opaque(b)) => (a == b).then_some(last.kind),
            (
                SpanKind::Content { offset, last: false, object: one, .. },
                SpanKind::Content { offset: next, last: ends, end, object },
            ) => (offset + last.len as u64 == next && one == object).then_some(SpanKind::Content {
                offset,
                last: ends,
                end,
                object,
            }),
            _ => None,
        };
        if let Some(kind) = joined {
            *last = Span { len: last.len + span.len, kind };
            return;
        }
    }
    spans.push(span);
}
