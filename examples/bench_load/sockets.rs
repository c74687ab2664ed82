//! The pages' sockets.

use std::{cell::RefCell, future::poll_fn, net::Ipv4Addr, pin::Pin, rc::Rc};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::{JoinSet, spawn_local},
};

use crate::{
    Options, Result,
    received::{Page, Received, masked},
};

/// Pages of one source address, whose ports are limited.
const PAGES_OF_ADDRESS: usize = 8_000;
/// Pages that connect at one time.
const CONNECTING: usize = 64;

pub(crate) async fn connect(options: &Options, page: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let address = u8::try_from(2 + page / PAGES_OF_ADDRESS)?;
    socket.bind((Ipv4Addr::new(127, 0, 0, address), 0).into())?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, options.port).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer: the head, and the body with what may stand behind it.
pub(crate) async fn exchange(stream: &mut TcpStream, request: &str) -> Result<(String, Vec<u8>)> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the server has closed the connection".into());
        }
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if answer.len() >= end + 4 + length.unwrap_or(0) {
            return Ok((head, answer.split_off(end + 4)));
        }
    }
}

/// Makes a page's handshake, opens its socket and subscribes. Returns what has been read of the socket, too.
async fn open(options: &Options, page: usize, handshakes: &mut TcpStream) -> Result<(TcpStream, Vec<u8>)> {
    let Options { endpoint, .. } = options;
    let token = options.token(page);
    let handshake = format!("GET {endpoint} HTTP/1.1\r\nhost: localhost\r\nremote-token: {token}\r\n\r\n");
    let (_, answer) = exchange(handshakes, &handshake).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    let key = answer["key"].as_str().unwrap_or(&token);
    let mut stream = connect(options, page).await?;
    let upgrade = format!(
        "GET {endpoint}?token={key}&ws=1 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let (head, rest) = exchange(&mut stream, &upgrade).await?;
    if !head.starts_with("http/1.1 101") {
        return Err(format!("no socket: {head}").into());
    }
    stream.write_all(&masked(1, br#"{"action":"subscribe","name":"events"}"#)).await?;
    Ok((stream, rest))
}

/// Reads a page's socket to its end. All pages share one buffer.
async fn listen(mut stream: TcpStream, rest: Vec<u8>, received: Rc<RefCell<Received>>, buffer: Rc<RefCell<Vec<u8>>>) {
    let (mut page, mut pongs) = (Page::new(rest), Vec::new());
    let mut read_some = async |stream: &mut TcpStream, pongs: &mut Vec<u8>| {
        poll_fn(|cx| {
            let mut buffer = buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut *stream).poll_read(cx, &mut read);
            polled.map_ok(|()| {
                page.receive(read.filled(), &mut received.borrow_mut(), pongs);
                !read.filled().is_empty()
            })
        })
        .await
    };
    while let Ok(true) = read_some(&mut stream, &mut pongs).await {
        if !pongs.is_empty() && stream.write_all(&std::mem::take(&mut pongs)).await.is_err() {
            break;
        }
    }
    received.borrow_mut().closed += 1;
}

/// Opens all pages; each then listens in a task of its own.
pub(crate) async fn open_all(options: &Options, received: &Rc<RefCell<Received>>) -> Result<()> {
    let buffer = Rc::new(RefCell::new(vec![0; 256 * 1024]));
    let mut connectors = JoinSet::new();
    for first in 0..CONNECTING {
        let (options, received, buffer) = (options.clone(), received.clone(), buffer.clone());
        connectors.spawn_local(async move {
            let mut handshakes = connect(&options, first).await?;
            for page in (first..options.pages).step_by(CONNECTING) {
                let (stream, rest) = open(&options, page, &mut handshakes).await?;
                spawn_local(listen(stream, rest, received.clone(), buffer.clone()));
            }
            Ok(())
        });
    }
    connectors.join_all().await.into_iter().collect()
}
