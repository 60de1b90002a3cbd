package attack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// frames is an HTTP/2 connection written frame by frame.
type frames struct {
	*http2.Framer
	conn    net.Conn
	encoded bytes.Buffer
	encoder *hpack.Encoder
	streams uint32
}

func openFrames(t testing.TB, n *gatetest.Lane, as *lab.Identity, settings ...http2.Setting) *frames {
	t.Helper()
	conn := connect(t, n, "h2", as)
	_, err := io.WriteString(conn, http2.ClientPreface)
	check(t, err)
	f := &frames{Framer: http2.NewFramer(conn, conn), conn: conn}
	f.AllowIllegalWrites = true
	f.SetMaxReadFrameSize(1 << 20)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.encoder = hpack.NewEncoder(&f.encoded)
	check(t, f.WriteSettings(settings...))
	return f
}

// next is the number of the next stream.
func (f *frames) next() uint32 {
	f.streams++
	return 2*f.streams - 1
}

// header encodes fields given as name, value, name, value.
func (f *frames) header(fields ...string) []byte {
	f.encoded.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = f.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // to memory
	}
	return bytes.Clone(f.encoded.Bytes())
}

// get are the fields of a GET.
func get(path string, more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "https", ":authority", "gate", ":path", path}, more...)
}

// request opens a stream, whole in one frame.
func (f *frames) request(end bool, fields ...string) (stream uint32, err error) {
	stream = f.next()
	return stream, f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.header(fields...), EndStream: end, EndHeaders: true})
}

// outcome is how a stream or its connection ended.
type outcome struct {
	status string // of the answer, "" when there was none
	reset  http2.ErrCode
	goaway http2.ErrCode
	closed bool
}

// await reads until the stream or the connection ends.
func (f *frames) await(t testing.TB, stream uint32) outcome {
	t.Helper()
	var o outcome
	check(t, f.conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	for {
		frame, err := f.ReadFrame()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Fatal("the gate does not answer the stream")
		case err != nil:
			o.closed = true
			return o
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				check(t, f.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				if status := frame.PseudoValue("status"); status != "" {
					o.status = status
				}
				if frame.StreamEnded() {
					return o
				}
			}
		case *http2.DataFrame:
			if frame.StreamID == stream && frame.StreamEnded() {
				return o
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				o.reset = frame.ErrCode
				return o
			}
		case *http2.GoAwayFrame:
			o.goaway = frame.ErrCode
		}
	}
}

// TestHeadersOfHTTP2 sends what only HTTP/2 can carry and HTTP/1.1 behind it would take for something else.
func TestHeadersOfHTTP2(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	api := recordOf(t, n)
	hidden := "GET " + secrets + "/hidden HTTP/1.1\r\nX-Remote-User: " + lab.AdminUser + "\r\n\r\n"
	for name, test := range map[string]struct {
		fields   []string
		trailers []string
		// want are the statuses the gate may answer with; empty: the stream or the connection is reset.
		want string
	}{
		"an honest request":                   {fields: get(secrets), want: "403"},
		"front-proxy headers":                 {fields: get(secrets, "x-remote-user", lab.AdminUser, "x-remote-group", "system:masters", "x_remote_user", lab.AdminUser), want: "403"},
		"in upper case":                       {fields: get(secrets, "X-Remote-User", lab.AdminUser)},
		"line breaks in a value":              {fields: get(secrets, "accept", "a\r\nX-Remote-User: "+lab.AdminUser)},
		"a line feed in a value":              {fields: get(secrets, "accept", "a\nX-Remote-User: "+lab.AdminUser)},
		"a zero byte in a value":              {fields: get(secrets, "accept", "a\x00b")},
		"line breaks in a name":               {fields: get(secrets, "accept: a\r\nx-remote-user", lab.AdminUser)},
		"a colon in a name":                   {fields: get(secrets, "x-remote-user:", lab.AdminUser)},
		"a space in a name":                   {fields: get(secrets, "x-remote-user ", lab.AdminUser)},
		"transfer-encoding":                   {fields: append([]string{":method", "POST"}, get(secrets, "transfer-encoding", "chunked")[2:]...), want: "400"},
		"connection":                          {fields: get(secrets, "connection", "x-remote-user"), want: "400"},
		"connection takes impersonation away": {fields: get(secrets, "impersonate-user", "jane", "connection", "impersonate-user"), want: "400"},
		"proxy-connection":                    {fields: get(secrets, "proxy-connection", "keep-alive"), want: "400"},
		"keep-alive":                          {fields: get(secrets, "keep-alive", "x-remote-user"), want: "400"},
		"upgrade":                             {fields: get(secrets, "upgrade", "websocket"), want: "400"},
		"te that is not trailers":             {fields: get(secrets, "te", "trailers, x-remote-user"), want: "400"},
		"a content length that is too short":  {fields: append([]string{":method", "POST"}, get("/api/v1/namespaces/default/configmaps", "content-length", "0")[2:]...), want: "403"},
		"two content lengths":                 {fields: get(secrets, "content-length", "0", "content-length", "60"), want: "400 403"},
		"line breaks in the path":             {fields: get(secrets + " HTTP/1.1\r\nX-Remote-User: " + lab.AdminUser + "\r\n\r\n" + hidden)},
		"a space in the path":                 {fields: get(secrets + " HTTP/1.1"), want: "400 403"},
		"a path without a slash":              {fields: get("api/v1/secrets")},
		"a path behind a scheme":              {fields: get("http:https://gate" + secrets), want: "400"},
		"an absolute path":                    {fields: get("https://other.example.com" + secrets), want: "400 403"},
		"an empty path":                       {fields: get("")},
		"two paths":                           {fields: get("/version", ":path", secrets)},
		"two methods":                         {fields: get(secrets, ":method", "DELETE")},
		"a pseudo-header behind the others":   {fields: append(get("/version")[:6], "accept", "a", ":path", secrets)},
		"an unknown pseudo-header":            {fields: get(secrets, ":x-remote-user", lab.AdminUser)},
		"a method with a request in it":       {fields: append([]string{":method", "GET " + secrets + " HTTP/1.1\r\n\r\nGET"}, get(secrets)[2:]...)},
		"CONNECT":                             {fields: []string{":method", "CONNECT", ":authority", "127.0.0.1:443"}, want: "400"},
		"extended CONNECT":                    {fields: append([]string{":method", "CONNECT", ":protocol", "websocket"}, get("/api/v1/namespaces/a/pods/b/exec")[2:]...)},
		"another authority and host":          {fields: append(get(secrets, "host", "other.example.com")[:4:4], append([]string{":authority", "kubernetes.default"}, get(secrets, "host", "other.example.com")[6:]...)...), want: "400 403"},
		"another scheme":                      {fields: append([]string{":method", "GET", ":scheme", "http"}, get(secrets)[4:]...), want: "403"},
		"trailers": {
			fields:   append([]string{":method", "POST"}, get("/api/v1/namespaces/default/configmaps", "trailer", "x-remote-user, impersonate-user", "content-type", "application/json")[2:]...),
			trailers: []string{"x-remote-user", lab.AdminUser, "impersonate-user", lab.AdminUser}, want: "403",
		},
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			f := openFrames(t, n, &mallory)
			stream, err := f.request(test.trailers == nil, append(test.fields, "user-agent", mark)...)
			check(t, err)
			if test.trailers != nil {
				check(t, f.WriteData(stream, false, []byte("{}")))
				check(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.header(test.trailers...), EndStream: true, EndHeaders: true}))
			}
			o := f.await(t, stream)
			switch {
			case test.want == "" && (o.status != "" || o.reset == 0 && o.goaway == 0 && !o.closed):
				t.Errorf("the gate answered %+v, want a reset", o)
			case test.want != "" && (o.status == "" || !strings.Contains(test.want, o.status)):
				t.Errorf("the gate answered %+v, want %s", o, test.want)
			}
			for _, a := range api.arrivals(t, mark) {
				if a.User.Username != mallory.String() || a.ImpersonatedUser != nil || strings.Contains(a.RequestURI, "hidden") {
					t.Errorf("a request arrived as %+v", a)
				}
			}
			_ = f.conn.Close()
		})
	}
}
