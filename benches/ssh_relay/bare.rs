//! The least that a relay of the same library can be: every channel has its own connection to the target, nothing is recorded or judged.

use std::sync::Arc;
use std::time::Duration;

use russh::keys::{PrivateKey, PublicKeyOrCertificate};
use russh::server::{Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelMsg, Preferred, cipher, client, server};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};

/// Where it leads, and by which key.
#[derive(Clone)]
pub struct Bare {
    pub port: u16,
    pub login: String,
    pub key: Arc<PrivateKey>,
}

struct Any;

impl client::Handler for Any {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

const CIPHERS: &[cipher::Name] = &[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305];

fn preferred() -> Preferred {
    Preferred { cipher: std::borrow::Cow::Borrowed(CIPHERS), ..Preferred::DEFAULT }
}

impl server::Handler for Bare {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (bare, handle) = (self.clone(), session.handle());
        tokio::spawn(async move {
            reply.accept().await;
            bare.relay(channel, handle).await.unwrap();
        });
        Ok(())
    }
}

impl Bare {
    pub async fn serve(self, listener: TcpListener) {
        let config = Arc::new(server::Config {
            keys: vec![(*self.key).clone()],
            auth_rejection_time_initial: Some(Duration::ZERO),
            inactivity_timeout: None,
            preferred: preferred(),
            ..server::Config::default()
        });
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (config, bare) = (config.clone(), self.clone());
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, BufReader::with_capacity(32 * 1024, stream), bare).await
                {
                    let _ = session.await;
                }
            });
        }
    }

    async fn relay(&self, mut down: Channel<Msg>, handle: server::Handle) -> Result<(), russh::Error> {
        let config = Arc::new(client::Config { preferred: preferred(), ..client::Config::default() });
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let mut up = client::connect_stream(config, BufReader::with_capacity(32 * 1024, stream), Any).await?;
        let key = russh::keys::PrivateKeyWithHashAlg::new(self.key.clone(), None);
        assert!(up.authenticate_publickey(&self.login, key).await?.success());
        let target = up.channel_open_session().await?;
        let command = loop {
            match down.wait().await {
                Some(ChannelMsg::Exec { command, .. }) => break command,
                Some(_) => {}
                None => return Ok(()),
            }
        };
        target.exec(true, command).await?;
        let ((mut down_read, down), (mut up_read, up_write)) = (down.split(), target.split());
        let downloads = async {
            while let Some(message) = up_read.wait().await {
                match message {
                    ChannelMsg::Data { data } => down.data_bytes(data).await?,
                    ChannelMsg::ExtendedData { data, ext } => down.extended_data_bytes(ext, data).await?,
                    ChannelMsg::ExitStatus { exit_status } => down.exit_status(exit_status).await?,
                    ChannelMsg::Success => drop(handle.channel_success(down.id()).await),
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
            down.eof().await?;
            down.close().await
        };
        let uploads = async {
            while let Some(message) = down_read.wait().await {
                match message {
                    ChannelMsg::Data { data } => up_write.data_bytes(data).await?,
                    ChannelMsg::Eof => up_write.eof().await?,
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
            Ok::<(), russh::Error>(())
        };
        tokio::select! {
            done = downloads => done,
            done = uploads => done,
        }
    }
}
