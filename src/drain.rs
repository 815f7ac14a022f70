//! STUB
use std::future::Future;
#[derive(Clone, Debug, Default)]
pub struct Drain;
impl Drain {
    pub fn spawn<E: std::error::Error + Send + 'static>(
        &self,
        _name: &'static str,
        f: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        tokio::spawn(async move {
            let _ = f.await;
        });
    }
}
