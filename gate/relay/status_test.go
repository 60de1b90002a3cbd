package relay

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatusFinish(t *testing.T) {
	s := Status{
		Total: Sharing{Answers: 4, UpstreamReads: 1, BytesDelivered: 400, BytesRead: 100},
		Keys: []KeyStatus{
			{Path: "/api/v1/pods", Encoding: "gzip", Sharing: Sharing{Answers: 2, UpstreamReads: 2, BytesDelivered: 10, BytesRead: 10}},
			{Path: "/api/v1/nodes", Sharing: Sharing{UpstreamReads: 3, BytesRead: 10}}, // all its readers went away
			{Path: "/api/v1/services", Sharing: Sharing{Answers: 10, UpstreamReads: 1, BytesDelivered: 1000, BytesRead: 100}},
			{Path: "/api/v1/nodes", Query: "labelSelector=a%3Db"},
		},
		Watches: []WatchStatus{{Path: "b", Subscribers: 1}, {Path: "a", Subscribers: 1}, {Path: "c", Subscribers: 9}},
		Survive: []SurviveStatus{{Resource: "services"}, {Resource: "nodes"}},
	}
	s.Finish()
	want := Status{
		Total: Sharing{Answers: 4, UpstreamReads: 1, HitRatio: 0.75, BytesDelivered: 400, BytesRead: 100, BytesSaved: 300},
		Keys: []KeyStatus{
			{Path: "/api/v1/services", Sharing: Sharing{Answers: 10, UpstreamReads: 1, HitRatio: 0.9, BytesDelivered: 1000, BytesRead: 100, BytesSaved: 900}},
			{Path: "/api/v1/nodes", Sharing: Sharing{UpstreamReads: 3, BytesRead: 10}},
			{Path: "/api/v1/nodes", Query: "labelSelector=a%3Db"},
			{Path: "/api/v1/pods", Encoding: "gzip", Sharing: Sharing{Answers: 2, UpstreamReads: 2, BytesDelivered: 10, BytesRead: 10}},
		},
		Watches: []WatchStatus{{Path: "c", Subscribers: 9}, {Path: "a", Subscribers: 1}, {Path: "b", Subscribers: 1}},
		Survive: []SurviveStatus{{Resource: "nodes"}, {Resource: "services"}},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Scripts read these names.
func TestStatusFieldsOfAKey(t *testing.T) {
	data, err := json.Marshal(KeyStatus{AgeSeconds: new(1.5)})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"resource":"","path":"","mediaType":"","encoding":"","readers":0,"waiting":0,"answers":0,"upstreamReads":0,` +
		`"hitRatio":0,"bytesDelivered":0,"bytesRead":0,"bytesSaved":0,"ageSeconds":1.5}`
	if string(data) != want {
		t.Errorf("got %s", data)
	}
}
