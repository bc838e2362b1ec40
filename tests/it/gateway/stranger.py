"""A client that says what no honest one says: stranger.py PORT ATTACK [HEX...]; prints one JSON object."""

import json
import sys
import time

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST, cMSG_SERVICE_REQUEST
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
        transport.auth_publickey(rest[0], paramiko.Ed25519Key.from_private_key_file(rest[1]))
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
            key = paramiko.Ed25519Key.from_private_key_file(rest[sent - 1])
            before = seen.count(51)
            signed = paramiko.Message()
            signed.add_string(transport.session_id)
            body = offer("root", "ssh-ed25519", key.asbytes()).asbytes()
            body = body.replace(b"publickey\x00", b"publickey\x01")
            signature = key.sign_ssh_data(signed.asbytes() + body).asbytes()
            raw = body + len(signature).to_bytes(4, "big") + signature
            say(paramiko.Message(raw))
            until = time.time() + 5
            while time.time() < until and transport.is_active() and seen.count(51) == before:
                time.sleep(0.01)
    else:
        sys.exit("no such attack")
except (EOFError, OSError, paramiko.SSHException):
    pass
until = time.time() + (2 if attack == "open-then-login" else 35)
while transport.is_active() and time.time() < until:
    time.sleep(0.01)
print(json.dumps({"alive": transport.is_active(), "seen": seen, "sent": sent}))
transport.close()
