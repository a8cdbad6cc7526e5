//! The HTTP door.

use crate::Running;

#[tokio::test(flavor = "multi_thread")]
async fn http_tells_health_and_metrics() {
    let running = Running::start().await;
    let address = running.server.as_ref().unwrap().http_address().unwrap();
    let get = async |path: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("headwater_epoch ") && metrics.contains("headwater_memory_bytes "), "{metrics}");
    running.stop().await;
}
