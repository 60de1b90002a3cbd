// Package export writes the data that cluster DNS serves as files for other programs: a zone file (RFC 1035) for
// unbound, BIND, NSD or Knot, zone files for reverse names, and a hosts file for nss_files. It is the second mechanism of
// service discovery, of which none of our code is part when it is needed: a fault in seakeep-dns, or in its
// configuration, does not reach it.
//
// A file is written whole and renamed into place, so that a reader sees one state of the cluster or the next. Each says
// when its data was last known to be current: in a comment, and in the zone as the TXT record _seakeep.
package export
