"""Reads a file over SMB with pysmb: pysmb_get.py SERVER PORT SHARE NAME USER PASSWORD OUTPUT."""

import sys

from smb.SMBConnection import SMBConnection

server, port, share, name, user, password, output = sys.argv[1:]
connection = SMBConnection(user, password, "client", "CONTENT", is_direct_tcp=True)
if not connection.connect(server, int(port)):
    sys.exit("the server let nobody in")
with open(output, "wb") as file:
    connection.retrieveFile(share, name, file)
connection.close()
