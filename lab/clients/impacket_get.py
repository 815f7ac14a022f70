"""Reads a file over SMB with impacket: impacket_get.py SERVER PORT SHARE NAME USER PASSWORD OUTPUT."""

import sys

from impacket.smbconnection import SMBConnection

server, port, share, name, user, password, output = sys.argv[1:]
connection = SMBConnection(server, server, sess_port=int(port))
connection.login(user, password)
with open(output, "wb") as file:
    connection.getFile(share, name, file.write)
connection.logoff()
