//! Which problems are to be told as events of their pods, and how such an event reads.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use tokio::time::Instant;
use tulle_kubernetes::delay;
use tulle_manifest::ObjectKey;

use crate::node::status::{Problem, Statuses};

/// A problem of a pod that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    /// When it was noticed. It gives the event its name: told twice, it is still one event.
    at: Timestamp,
    problem: Problem,
}

impl Report {
    /// The event.
    pub(super) fn event(&self, node: &str) -> v1::Event {
        let ObjectKey { namespace, name } = &self.key;
        // With the time, a name may be as long as any.
        let short = shorten(name, 200).trim_end_matches(['.', '-']);
        v1::Event {
            metadata: ObjectMeta {
                name: Some(format!("{short}.{:x}", self.at.as_nanosecond())),
                namespace: Some(namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(self.at)),
            type_: Some("Warning".into()),
            action: Some(ACTION.into()),
            reason: Some(shorten(self.problem.reason, 128).to_owned()),
            note: Some(shorten(&self.problem.message, 1024).to_owned()),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(shorten(node, 128).to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(namespace.to_string()),
                name: Some(name.to_string()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            }),
            ..v1::Event::default()
        }
    }
}

/// What was told, by UID.
#[derive(Debug, Default)]
pub(super) struct Events(HashMap<String, Told>);

#[derive(Debug)]
struct Told {
    /// What was told, or is to be told next. None if the last one is over.
    report: Option<Report>,
    done: bool,
    failures: u32,
    /// Not before.
    again: Instant,
}

impl Events {
    /// What to tell now, and when to ask again if nothing happens meanwhile. `time` is now as well, for people.
    pub(super) fn due(
        &mut self,
        now: Instant,
        time: Timestamp,
        statuses: &Statuses,
    ) -> (Vec<Report>, Option<Instant>) {
        let problems: HashMap<&String, &Problem> = statuses
            .iter()
            .filter_map(|(uid, status)| Some((uid, status.problem.as_ref()?)))
            .collect();
        // One that is over is kept until its pod may be told of again.
        self.0.retain(|uid, told| {
            let lasts = problems.contains_key(uid);
            if !lasts {
                told.report = None;
            }
            lasts || told.again > now
        });
        for (uid, problem) in problems {
            let told = self.0.entry(uid.clone()).or_insert(Told {
                report: None,
                done: false,
                failures: 0,
                again: now,
            });
            let known = told.report.as_ref();
            if known.is_none_or(|known| known.problem != *problem)
                && let Some(status) = statuses.get(uid)
            {
                told.done = false;
                told.report = Some(Report {
                    key: status.key.clone(),
                    uid: uid.clone(),
                    at: time,
                    problem: problem.clone(),
                });
            }
        }
        let open = || self.0.values().filter(|told| !told.done);
        let next = open().map(|told| told.again).filter(|again| *again > now);
        let due = open().filter(|told| told.again <= now);
        (
            due.filter_map(|told| told.report.clone()).collect(),
            next.min(),
        )
    }

    /// It was told, or there is nobody to tell it to.
    pub(super) fn settled(&mut self, report: &Report, now: Instant) {
        if let Some(told) = self.0.get_mut(&report.uid) {
            told.done = told.report.as_ref() == Some(report);
            told.failures = 0;
            told.again = now + GAP;
        }
    }

    /// It was refused. Returns whether that is new.
    pub(super) fn refused(&mut self, report: &Report, now: Instant) -> bool {
        let Some(told) = self.0.get_mut(&report.uid) else {
            return false;
        };
        told.again = now + delay(GAP, LAST, told.failures);
        told.failures = told.failures.saturating_add(1);
        told.failures == 1
    }
}

/// At most this many bytes of a text, whole characters.
fn shorten(text: &str, most: usize) -> &str {
    let end = text.floor_char_boundary(most);
    text.get(..end).unwrap_or(text)
}

const ACTION: &str = "Enroll";
const CONTROLLER: &str = "tulle.io/node-agent";
/// Between two events of one pod: its problem may come and go with every attempt to mend it.
const GAP: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::Status;

    fn with(problem: Option<&str>) -> Statuses {
        let status = Status {
            key: ObjectKey::new("shop", "web-0"),
            redirection: None,
            problem: problem.map(|message| Problem {
                reason: "NotCapturable",
                message: message.into(),
            }),
        };
        [("u-1".to_owned(), status)].into()
    }

    fn time(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(micros).unwrap()
    }

    #[test]
    fn problem_is_told_once_and_again_when_it_changes() {
        let (mut events, start) = (Events::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut told = Vec::new();
        let mut next = Vec::new();
        for (second, problem) in [
            (0, Some("no ztunnel")),
            (1, Some("no ztunnel")),
            (2, None),
            (3, Some("hostNetwork")),
            (4, Some("no ztunnel")),
            (10, Some("no ztunnel")),
            (11, Some("no ztunnel")),
            (30, None),
            (31, Some("no ztunnel")),
        ] {
            let (due, wake) = events.due(at(second), time(7), &with(problem));
            next.push(wake);
            for report in due {
                told.push((second, report.problem.message.clone()));
                events.settled(&report, at(second));
            }
        }
        let expected = [(0, "no ztunnel"), (10, "no ztunnel"), (31, "no ztunnel")];
        let expected = expected.map(|(second, text)| (second, text.to_owned()));
        assert_eq!(told, expected);
        assert_eq!(next.get(3..5), Some(&[Some(at(10)), Some(at(10))][..]));
        assert_eq!(
            events.due(at(60), time(7), &Statuses::new()),
            (vec![], None)
        );
        assert!(events.0.is_empty());
    }

    #[test]
    fn event_keeps_its_name_until_it_is_told() {
        let (mut events, start) = (Events::default(), Instant::now());
        let (first, _) = events.due(start, time(1), &with(Some("a")));
        assert!(events.refused(&first[0], start));
        let later = start + GAP;
        let (second, _) = events.due(later, time(2), &with(Some("a")));
        assert_eq!(first, second);
        assert!(!events.refused(&second[0], later));
        let (third, next) = events.due(later, time(3), &with(Some("a")));
        assert_eq!(third, vec![]);
        assert!(next > Some(later));
    }

    #[test]
    fn event_is_one_that_the_api_server_takes() {
        let (due, _) = Events::default().due(
            Instant::now(),
            time(1_700_000_000_000_000),
            &with(Some(&"é".repeat(600))),
        );
        let event = serde_json::to_value(due[0].event("node1")).unwrap();
        let note = event["note"].as_str().unwrap();
        assert_eq!(note.len(), 1024);
        let expected = serde_json::json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "web-0.17979cfe362a0000", "namespace": "shop"},
            "eventTime": "2023-11-14T22:13:20.000000Z",
            "type": "Warning",
            "action": "Enroll",
            "reason": "NotCapturable",
            "note": note,
            "reportingController": "tulle.io/node-agent",
            "reportingInstance": "node1",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "u-1"},
        });
        assert_eq!(event, expected);
    }
}
