use std::{cell::RefCell, rc::Rc};

use tokio::task::LocalSet;
use tulle_model::{ServiceKey, http::BackendService, telemetry::CollectorProtocol};

use super::*;

fn collector(name: &str) -> Collector {
    Collector {
        name: name.into(),
        service: BackendService {
            key: ServiceKey::new("obs", "otel"),
            port: Some(4317),
            subset: None,
        },
        timeout: Duration::from_secs(5),
        protocol: CollectorProtocol::Grpc,
    }
}

fn span(name: &str) -> wire::Span {
    wire::Span {
        name: name.to_owned(),
        ..wire::Span::default()
    }
}

/// Names of spans, by message, as collectors were told.
type Heard = Rc<RefCell<Vec<(String, Vec<String>)>>>;

/// Runs `with` beside collectors that answer so, one after the other, and then well.
async fn told<W, R>(answers: Vec<Result<(), Untold>>, with: W) -> Vec<(String, Vec<String>)>
where
    W: FnOnce(Collectors, Counted) -> R,
    R: Future<Output = ()>,
{
    let counted = Counted::default();
    let (collectors, to_tell) = Collectors::new(counted.clone(), wire::Resource::default());
    let heard = Heard::default();
    let (hears, answers) = (Rc::clone(&heard), Rc::new(RefCell::new(answers)));
    let tell = move |collector: Arc<Collector>, message: Bytes| {
        let message = wire::ExportTraceServiceRequest::decode(message).unwrap();
        let spans = &message.resource_spans[0].scope_spans[0].spans;
        let names = spans.iter().map(|span| span.name.clone()).collect();
        hears.borrow_mut().push((collector.name.to_string(), names));
        let mut answers = answers.borrow_mut();
        let answer = if answers.is_empty() {
            Ok(())
        } else {
            answers.remove(0)
        };
        async move { answer }
    };
    LocalSet::new()
        .run_until(async {
            let mut running = JoinSet::new();
            running.spawn_local(async move { match run(to_tell, tell).await {} });
            with(collectors, counted).await;
        })
        .await;
    heard.take()
}

fn counted(of: &Counted, outcome: &'static str) -> u64 {
    of.0.get_or_create(&Outcome { outcome }).get()
}

#[tokio::test(start_paused = true)]
async fn what_comes_together_is_told_together() {
    let heard = told(Vec::new(), async |collectors, counts| {
        let (a, b) = (
            collectors.spans(&collector("a")),
            collectors.spans(&collector("b")),
        );
        // The same queue.
        collectors.spans(&collector("a")).tell(span("1"));
        a.tell(span("2"));
        b.tell(span("3"));
        collectors.flush().await;
        a.tell(span("4"));
        collectors.flush().await;
        assert_eq!(counted(&counts, "told"), 4);
    });
    let mut heard = heard.await;
    heard.sort();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        heard,
        [
            ("a".to_owned(), names(&["1", "2"])),
            ("a".to_owned(), names(&["4"])),
            ("b".to_owned(), names(&["3"])),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn many_are_told_in_parts_and_too_many_not() {
    let heard = told(Vec::new(), async |collectors, counts| {
        let spans = collectors.spans(&collector("a"));
        for _ in 0..QUEUE + 10 {
            spans.tell(span("x"));
        }
        assert_eq!(counted(&counts, "dropped"), 10);
        collectors.flush().await;
        assert_eq!(counted(&counts, "told"), QUEUE as u64);
    });
    let sizes: Vec<_> = heard
        .await
        .into_iter()
        .map(|(_, names)| names.len())
        .collect();
    assert_eq!(sizes, [AT_ONCE; QUEUE / AT_ONCE]);
}

#[tokio::test(start_paused = true)]
async fn who_may_listen_later_is_told_again() {
    let untold = |may_be_told| {
        Err(Untold {
            why: "busy".to_owned(),
            may_be_told,
        })
    };
    for (answers, outcome, messages) in [
        (vec![untold(true), untold(true)], "told", 3),
        (vec![untold(true), untold(true), untold(true)], "failed", 3),
        (vec![untold(false)], "failed", 1),
    ] {
        let heard = told(answers, async |collectors, counts| {
            let spans = collectors.spans(&collector("a"));
            spans.tell(span("x"));
            collectors.flush().await;
            assert_eq!(counted(&counts, outcome), 1);
        });
        assert_eq!(heard.await.len(), messages, "{outcome}");
    }
}
