//! What the tests read and write in a store. Each call is a connection of its own: a client that
//! outlives its server is what is tested, not what tests with.

use super::Etcd;
use crate::wait::wait_for;
use etcd_client::{
    Client, CompactionOptions, ConnectOptions, DeleteOptions, Error, GetOptions, Permission,
    PutOptions, RoleRevokePermissionOptions, Txn, TxnOp,
};
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// How long a call may take on a healthy store.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a look at readiness may take.
const LOOK: Duration = Duration::from_millis(500);
/// Operations in one transaction; the server takes 128.
const BATCH: usize = 100;
/// Transactions under way at once.
const AT_ONCE: usize = 8;

/// The user and the role that can do everything.
const ROOT: &str = "root";

// What a lab can't do to its store fails the test, with what etcd said.
impl Etcd {
    /// Writes a key; returns the revision.
    #[track_caller]
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let value = value.into();
        self.call(async |mut client| {
            let answer = client.put(key, value, None).await?;
            Ok(answer.header().map_or(0, |header| header.revision()))
        })
    }

    /// Writes a key on a lease of its own that nobody renews; returns the lease.
    #[track_caller]
    pub fn put_leased(&self, key: &str, value: impl Into<Vec<u8>>, ttl: Duration) -> i64 {
        let value = value.into();
        let ttl = i64::try_from(ttl.as_secs()).expect("a short time");
        self.call(async |mut client| {
            let lease = client.lease_grant(ttl, None).await?.id();
            client.put(key, value, Some(PutOptions::new().with_lease(lease))).await?;
            Ok(lease)
        })
    }

    /// Revokes a lease, and with it its keys.
    #[track_caller]
    pub fn revoke(&self, lease: i64) {
        self.call(async |mut client| client.lease_revoke(lease).await.map(drop));
    }

    /// Writes many keys, in transactions of 100, several of them under way at once.
    #[track_caller]
    pub fn put_many<K, V>(&self, keys: impl IntoIterator<Item = (K, V)>)
    where
        K: Into<Vec<u8>>,
        V: Into<Vec<u8>>,
    {
        self.transact(keys.into_iter().map(|(key, value)| TxnOp::put(key, value, None)));
    }

    /// Deletes many keys, as [`put_many`](Self::put_many) writes them.
    #[track_caller]
    pub fn delete_many<K: Into<Vec<u8>>>(&self, keys: impl IntoIterator<Item = K>) {
        self.transact(keys.into_iter().map(|key| TxnOp::delete(key, None)));
    }

    /// Deletes a key; whether it was there.
    #[track_caller]
    pub fn delete(&self, key: &str) -> bool {
        self.call(async |mut client| Ok(client.delete(key, None).await?.deleted() > 0))
    }

    /// Deletes all keys that begin so; returns how many.
    #[track_caller]
    pub fn delete_prefix(&self, prefix: &str) -> i64 {
        self.call(async |mut client| {
            let all = DeleteOptions::new().with_prefix();
            Ok(client.delete(prefix, Some(all)).await?.deleted())
        })
    }

    /// A key's value.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        self.call(async |mut client| {
            let answer = client.get(key, None).await?;
            Ok(answer.kvs().first().map(|found| text(found.value())))
        })
    }

    /// The lease a key hangs on, if it is there and on one.
    #[track_caller]
    pub fn lease_of(&self, key: &str) -> Option<i64> {
        self.call(async |mut client| {
            let answer = client.get(key, None).await?;
            Ok(answer.kvs().first().map(etcd_client::KeyValue::lease).filter(|id| *id != 0))
        })
    }

    /// The keys that begin so, with their values, in order.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<(String, String)> {
        self.call(async |mut client| {
            let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            Ok(answer.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect())
        })
    }

    /// The store's revision.
    #[track_caller]
    pub fn revision(&self) -> i64 {
        self.call(async |mut client| {
            Ok(client.get("/", None).await?.header().map_or(0, |header| header.revision()))
        })
    }

    /// Compacts the history up to the present revision and returns that.
    #[track_caller]
    pub fn compact(&self) -> i64 {
        let revision = self.revision();
        self.call(async |mut client| {
            let physical = CompactionOptions::new().with_physical();
            client.compact(revision, Some(physical)).await.map(|_| revision)
        })
    }

    /// Whether it answers a read that needs a quorum.
    pub fn answers(&self) -> bool {
        self.attempt(LOOK, async |mut client| client.get("/", None).await.map(drop)).is_ok()
    }

    /// Whether it answers for itself, with or without a quorum, and who leads if anyone does.
    pub fn leader(&self) -> Option<u64> {
        let status = self.attempt(LOOK, async |mut client| client.status().await);
        status.ok().map(|status| status.leader()).filter(|leader| *leader != 0)
    }

    /// Waits until it answers again.
    #[track_caller]
    pub fn wait_ready(&self) {
        wait_for("etcd to answer", super::READY, || self.answers().then_some(()));
    }

    /// Switches authentication on. `user` may read and write everything; the administrator of the
    /// tests has a password of its own.
    #[track_caller]
    pub fn enable_auth(&self, user: &str, password: &str) {
        let root = format!("root-of-{password}");
        self.call(async |mut client| {
            client.user_add(ROOT, root.as_str(), None).await?;
            client.role_add(ROOT).await?;
            client.user_grant_role(ROOT, ROOT).await?;
            client.user_add(user, password, None).await?;
            client.role_add(user).await?;
            client.role_grant_permission(user, everything()).await?;
            client.user_grant_role(user, user).await?;
            client.auth_enable().await.map(drop)
        });
        self.log_in(Some((ROOT.to_owned(), root)));
    }

    /// Switches authentication off; the users are gone, so that it can be switched on again.
    #[track_caller]
    pub fn disable_auth(&self) {
        self.call(async |mut client| client.auth_disable().await.map(drop));
        self.log_in(None);
        self.call(async |mut client| {
            for user in client.user_list().await?.users() {
                client.user_delete(user.as_str()).await?;
            }
            for role in client.role_list().await?.roles() {
                client.role_delete(role.as_str()).await?;
            }
            Ok(())
        });
    }

    /// Gives a user another password.
    #[track_caller]
    pub fn set_password(&self, user: &str, password: &str) {
        self.call(async |mut client| client.user_change_password(user, password).await.map(drop));
    }

    /// Takes away what [`enable_auth`](Self::enable_auth) has given to a user.
    #[track_caller]
    pub fn forbid(&self, user: &str) {
        self.call(async |mut client| {
            let everything = RoleRevokePermissionOptions::new().with_all_keys();
            client.role_revoke_permission(user, "\0", Some(everything)).await.map(drop)
        });
    }

    /// Gives it back.
    #[track_caller]
    pub fn allow(&self, user: &str) {
        self.call(async |mut client| {
            client.role_grant_permission(user, everything()).await.map(drop)
        });
    }

    /// Leaves a user who may do everything with reading only; [`allow`](Self::allow) undoes it.
    #[track_caller]
    pub fn only_read(&self, user: &str) {
        let reading = Permission::read("").with_all_keys();
        self.call(async |mut client| client.role_grant_permission(user, reading).await.map(drop));
    }

    #[track_caller]
    fn transact(&self, operations: impl Iterator<Item = TxnOp>) {
        let operations: Vec<TxnOp> = operations.collect();
        self.call(async |client| {
            let mut under_way = JoinSet::new();
            for batch in operations.chunks(BATCH) {
                if under_way.len() == AT_ONCE {
                    done(under_way.join_next().await)?;
                }
                let (mut client, batch) = (client.clone(), Txn::new().and_then(batch));
                under_way.spawn(async move { client.txn(batch).await.map(drop) });
            }
            while let Some(one) = under_way.join_next().await {
                done(Some(one))?;
            }
            Ok(())
        });
    }

    #[track_caller]
    fn call<T: Send>(&self, body: impl AsyncFnOnce(Client) -> Result<T, Error> + Send) -> T {
        match self.attempt(PATIENCE, body) {
            Ok(done) => done,
            Err(error) => panic!("etcd: {error}; it logged\n{}", self.log()),
        }
    }

    /// Runs calls on a connection of their own, on a thread in the server's network namespace.
    fn attempt<T: Send>(
        &self,
        deadline: Duration,
        body: impl AsyncFnOnce(Client) -> Result<T, Error> + Send,
    ) -> Result<T, String> {
        let mut options = ConnectOptions::new().with_connect_timeout(deadline);
        if let Some((user, password)) = self.login() {
            options = options.with_user(user, password);
        }
        let door = self.door();
        let run = move || {
            let calls = async {
                let client = Client::connect([door], Some(options)).await?;
                body(client).await
            };
            let outcome = runtime().block_on(async { tokio::time::timeout(deadline, calls).await });
            match outcome {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {deadline:?}")),
            }
        };
        let Some(far) = &self.setup.far else { return run() };
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                far.enter();
                run()
            });
            there.join().expect("the far thread does not panic")
        })
    }

    fn log_in(&self, login: Option<(String, String)>) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
    }
}

/// A runtime on the calling thread: another one could be in another network namespace.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn everything() -> Permission {
    Permission::read_write("").with_all_keys()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(one: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), Error> {
    one.map_or(Ok(()), |joined| joined.expect("a transaction does not panic"))
}
