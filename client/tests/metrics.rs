//! The recipe for Prometheus names metrics that there are.

use std::time::Duration;

use larder_client::Client;
use larder_testing::{Fault, Node};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

#[tokio::test]
async fn every_metric_and_label_of_the_cookbooks_questions_is_in_what_prometheus_scrapes() {
    let full = Matcher::Full("db.client.operation.duration".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(full, &[0.001, 0.1]).unwrap().build_recorder();
    let prometheus = recorder.handle();
    // The test's only thread runs the client too.
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let node = Node::start().unwrap();
    let cache = Client::builder().server(node.address()).metrics().build().unwrap();
    let load = || async { Ok::<_, std::io::Error>("v") };
    cache.get_or_load("k", Duration::from_secs(60), load).await.unwrap();
    node.fail(Fault::Errors);
    assert!(cache.get("k").await.is_err());
    let scraped = prometheus.render();
    let cookbook = include_str!("../cookbook.md");
    let questions = cookbook.split("Questions for Prometheus:").nth(1).and_then(|rest| rest.split("\n## ").next());
    let expressions: String = questions.expect("the table is there").split('`').skip(1).step_by(2).collect();
    let words = expressions.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: Vec<&str> = words.filter(|word| word.starts_with("larder_") || word.starts_with("db_")).collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in names.into_iter().chain(["error_type=\"refused\"", "state=\"open\"", "db_system_name=\"memcached\""]) {
        assert!(scraped.contains(name), "{name} is not in\n{scraped}");
    }
}
