package v1alpha1

import (
	"strings"
	"testing"
)

func TestClusterShape(t *testing.T) {
	good := func() *ClusterShape {
		return &ClusterShape{
			APIServers: ShapeServers{Count: 3},
			Objects:    []ShapeObjects{{Resource: "nodes", Count: 300}, {Resource: "pods", Count: 6000, Bytes: 8000}, {Group: "custom-1", Resource: "custom-1", Count: 2}},
			Requests:   []ShapeRequests{{Verb: "LIST", Resource: "pods", PerThousandSeconds: 300}},
			Watches:    []ShapeWatches{{Resource: "pods", Count: 310}},
		}
	}
	for name, tc := range map[string]struct {
		change func(*ClusterShape)
		want   string // the field; "" for none
	}{
		"as it should be":     {func(*ClusterShape) {}, ""},
		"no API server":       {func(s *ClusterShape) { s.APIServers.Count = 0 }, "apiServers.count"},
		"no nodes":            {func(s *ClusterShape) { s.Objects = s.Objects[1:] }, "objects"},
		"a million and one":   {func(s *ClusterShape) { s.Objects[1].Count = 1_000_001 }, "objects[1].count"},
		"too large":           {func(s *ClusterShape) { s.Objects[1].Bytes = 1 << 30 }, "objects[1].bytes"},
		"twice":               {func(s *ClusterShape) { s.Objects[2] = s.Objects[1] }, "objects[2]"},
		"a name that is none": {func(s *ClusterShape) { s.Objects[2].Group = "a b" }, "objects[2].group"},
		"a verb":              {func(s *ClusterShape) { s.Requests[0].Verb = "WATCH" }, "requests[0].verb"},
		"a rate":              {func(s *ClusterShape) { s.Requests[0].PerThousandSeconds = -1 }, "requests[0].perThousandSeconds"},
		"watches":             {func(s *ClusterShape) { s.Watches[0].Resource = "" }, "watches[0].resource"},
		"too many lines":      {func(s *ClusterShape) { s.Watches = make([]ShapeWatches, 2001) }, "watches"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			tc.change(s)
			s.SetDefaults()
			errs := s.Validate()
			if tc.want == "" && len(errs) > 0 || tc.want != "" && (len(errs) == 0 || !strings.HasPrefix(errs[0].Field, tc.want)) {
				t.Errorf("got %v, want %q", errs, tc.want)
			}
		})
	}
}
