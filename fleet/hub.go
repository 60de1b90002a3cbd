package fleet

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// profiles is what the cluster inventory's API calls its objects (KEP-4322). They are read as they are: its Go module is not
// needed for two fields.
var profiles = schema.GroupVersionResource{Group: "multicluster.x-k8s.io", Version: "v1alpha1", Resource: "clusterprofiles"}

// page bounds what one request to a hub answers.
const page = 500

func hubOf(h v1alpha1.FleetHub, o Options) (*rest.Config, metav1.ListOptions, error) {
	options := metav1.ListOptions{}
	if h.LabelSelector != nil {
		options.LabelSelector = metav1.FormatLabelSelector(h.LabelSelector)
	}
	switch {
	case h.Kubeconfig != "":
		config, err := readKubeconfig(h.Kubeconfig, h.Context, o)
		return config, options, err
	case o.Hub == nil:
		return nil, options, errors.New("kubeconfig: required: only 'seakeep rollout controller' has a hub of its own")
	}
	config, err := o.dress(rest.CopyConfig(o.Hub))
	return config, options, err
}

func fromSecrets(ctx context.Context, s *v1alpha1.FleetSecrets, o Options) ([]Cluster, error) {
	if s == nil {
		return nil, nil
	}
	config, options, err := hubOf(s.FleetHub, o)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	list := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Secrets(s.Namespace).List(ctx, options)
	}
	return everyOne(ctx, list, options, "Secret", s.Namespace, func(secret *corev1.Secret) (*rest.Config, error) {
		data, has := secret.Data[s.Key]
		if !has {
			return nil, nil // a Secret of something else
		}
		return foreign(data, o)
	})
}

// everyOne makes clusters of all objects that a hub lists, page by page. None is made of an object without a config; what is
// wrong with one does not keep the others from being read.
func everyOne[T metav1.Object](ctx context.Context, list pager.ListPageFunc, options metav1.ListOptions, kind, namespace string, config func(T) (*rest.Config, error)) ([]Cluster, error) {
	var clusters []Cluster
	var errs []error
	pages := pager.New(list)
	pages.PageSize = page
	err := pages.EachListItem(ctx, options, func(o runtime.Object) error {
		object := o.(T)
		source := kind + " " + namespace + "/" + object.GetName()
		made, err := config(object)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", source, err))
		case made != nil:
			clusters = append(clusters, Cluster{Name: object.GetName(), Labels: object.GetLabels(), Source: source, Config: made})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the %ss of %s: %w", kind, namespace, err)
	}
	return clusters, errors.Join(errs...)
}

func fromProfiles(ctx context.Context, p *v1alpha1.FleetProfiles, o Options) ([]Cluster, error) {
	if p == nil {
		return nil, nil
	}
	config, options, err := hubOf(p.FleetHub, o)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	list := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return objects.Resource(profiles).Namespace(p.Namespace).List(ctx, options)
	}
	return everyOne(ctx, list, options, "ClusterProfile", p.Namespace, func(profile *unstructured.Unstructured) (*rest.Config, error) {
		secret, err := client.CoreV1().Secrets(p.Namespace).Get(ctx, profile.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, errors.New("there is no Secret of the same name with its credentials")
		}
		if err != nil {
			return nil, err
		}
		data, has := secret.Data[p.Key]
		if !has {
			return nil, fmt.Errorf("the Secret of the same name has no key %q, which is to hold a kubeconfig", p.Key)
		}
		return foreign(data, o)
	})
}
