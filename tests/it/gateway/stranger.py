"""A client that says what no honest one says: stranger.py PORT ATTACK [HEX...]; prints one JSON object."""

import json
import os
import sys
import time

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST, cMSG_CHANNEL_WINDOW_ADJUST
from paramiko.common import cMSG_DISCONNECT, cMSG_GLOBAL_REQUEST, cMSG_SERVICE_REQUEST
from paramiko.common import cMSG_USERAUTH_REQUEST, cMSG_USERAUTH_SUCCESS

port, attack, rest = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
seen = []


def message(kind, *fields):
    out = paramiko.Message()
    out.add_byte(kind)
    for field in fields:
        if isinstance(field, bool):
            out.add_boolean(field)
        elif isinstance(field, int):
            out.add_int(field)
        else:
            out.add_string(field)
    return out


transport = paramiko.Transport(("127.0.0.1", port))
read = transport.packetizer.read_message


def reading():
    kind, content = read()
    seen.append(kind)
    return kind, content


transport.packetizer.read_message = reading
transport.start_client(timeout=10)
say = transport._send_user_message
service = message(cMSG_SERVICE_REQUEST, "ssh-userauth")
opening = message(cMSG_CHANNEL_OPEN, "session", 0, 1 << 20, 1 << 15)


def offer(user, algorithm, blob):
    return message(cMSG_USERAUTH_REQUEST, user, "ssh-connection", "publickey", False, algorithm, blob)


def proved(user, key):
    """A request that is signed with the key (RFC 4252 section 7)."""
    body = offer(user, "ssh-ed25519", key.asbytes()).asbytes().replace(b"publickey\x00", b"publickey\x01")
    session = len(transport.session_id).to_bytes(4, "big") + transport.session_id
    signature = key.sign_ssh_data(session + body).asbytes()
    return paramiko.Message(body + len(signature).to_bytes(4, "big") + signature)


def wait_for(kinds, before, limit=5):
    until = time.time() + limit
    while time.time() < until and transport.is_active() and sum(map(seen.count, kinds)) == before:
        time.sleep(0.01)


def key_in(path):
    return paramiko.Ed25519Key.from_private_key_file(path)


sent = 0
try:
    if attack == "open":
        say(opening)
    elif attack == "open-after-service":
        say(service)
        say(opening)
    elif attack == "exec":
        say(service)
        say(opening)
        say(message(cMSG_CHANNEL_REQUEST, 0, "exec", True, "touch " + rest[0]))
    elif attack == "global":
        say(message(cMSG_GLOBAL_REQUEST, "tcpip-forward", True, "127.0.0.1", 0))
    elif attack == "success":
        say(service)
        say(message(cMSG_USERAUTH_SUCCESS))
        say(opening)
    elif attack == "success-first":
        say(message(cMSG_USERAUTH_SUCCESS))
        say(opening)
    elif attack == "open-then-login":
        say(opening)
        transport.auth_publickey(rest[0], key_in(rest[1]))
    elif attack == "offers":
        # The same key each time, never proved.
        say(service)
        for sent in range(1, 1001):
            if not transport.is_active():
                break
            say(offer("root", "ssh-ed25519", bytes.fromhex(rest[0])))
            time.sleep(0.005)
    elif attack == "failures":
        # Eleven different keys, each proved, none known.
        say(service)
        for sent in range(1, 12):
            if not transport.is_active():
                break
            before = seen.count(51)
            say(proved("root", key_in(rest[sent - 1])))
            wait_for([51], before)
    elif attack == "offer-then-login":
        # Somebody else's key is offered, and found good; then one's own is proved.
        say(service)
        say(offer(rest[0], "ssh-ed25519", bytes.fromhex(rest[2])))
        wait_for([60, 51], 0)
        say(proved(rest[0], key_in(rest[1])))
        wait_for([52, 51], 0)
        channel = transport.open_session(timeout=10)
        channel.exec_command("echo in")
        channel.recv(100)
    elif attack == "channels":
        # Windows that overflow, channels that nobody opened, and very many that nobody gives.
        transport.auth_publickey(rest[0], key_in(rest[1]))
        real = transport.open_session(timeout=10)
        for _ in range(3):
            say(message(cMSG_CHANNEL_WINDOW_ADJUST, real.remote_chanid, 0xFFFFFFFF))
        for sent in range(10_000):
            say(message(cMSG_CHANNEL_OPEN, "nonsense@example", sent + 100, 1 << 20, 1 << 15))
        # Of a channel that is not there: what answers is an end, or nothing.
        say(message(cMSG_CHANNEL_DATA, 4242, "x" * 1000))
        say(message(cMSG_CHANNEL_WINDOW_ADJUST, 4242, 0xFFFFFFFF))
    elif attack == "leaves-and-stays":
        # Says that it goes, and keeps the connection open until a file is there.
        transport.auth_publickey(rest[0], key_in(rest[1]))
        transport.open_session(timeout=10).exec_command("sleep 600")
        kept = os.dup(transport.sock.fileno())
        say(message(cMSG_DISCONNECT, 11, "bye", ""))
        until = time.time() + 60
        while not os.path.exists(rest[2]) and time.time() < until:
            time.sleep(0.01)
        os.close(kept)
    else:
        sys.exit("no such attack")
except (EOFError, OSError, paramiko.SSHException):
    pass
until = time.time() + (2 if attack.endswith("login") or attack == "channels" else 35)
while transport.is_active() and time.time() < until:
    time.sleep(0.01)
print(json.dumps({"alive": transport.is_active(), "seen": seen, "sent": sent}))
transport.close()
