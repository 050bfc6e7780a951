{{/*
What the operator may do, by purpose. Each rule is written once and goes into a ClusterRole or into Roles. Exactly the
verbs that are used: a test in a real API server fails on one that is missing and on one that is not needed.
*/}}

{{/* Watching the resources and what runs for gateways, and writing status; in every namespace that is watched. */}}
{{- define "tollgate.rules.resources" -}}
- apiGroups: [tollgate.dev]
  resources: [llmgateways, provideraccounts, modeldeployments, routegroups, teams, virtualkeys, budgets]
  verbs: [list, watch]
- apiGroups: [tollgate.dev]
  resources:
    - llmgateways/status
    - provideraccounts/status
    - modeldeployments/status
    - routegroups/status
    - teams/status
    - virtualkeys/status
    - budgets/status
  verbs: [patch]
{{- if .Values.rbac.ownerFinalizers }}
- apiGroups: [tollgate.dev]
  resources: [llmgateways/finalizers, virtualkeys/finalizers]
  verbs: [update]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
{{- end }}

{{/* Labels of namespaces, which `allowedNamespaces` selects by. */}}
{{- define "tollgate.rules.namespaces" -}}
{{- $watched := include "tollgate.watchNamespaces" . | fromJsonArray -}}
- apiGroups: [""]
  resources: [namespaces]
  {{- if $watched }}
  resourceNames: {{ toJson $watched }}
  verbs: [get]
  {{- else }}
  verbs: [list, watch]
  {{- end }}
{{- end }}

{{/* Making what runs for gateways; in each namespace that has some. What a gateway always has goes by its owner reference. */}}
{{- define "tollgate.rules.gateways" -}}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [{{ .Values.proxy.serviceAccount.name }}]
  verbs: [get]
{{- end }}

{{/* The Secrets with credentials that the proxies read, by their names. Takes the gateways' names. */}}
{{- define "tollgate.rules.credentials" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
    {{- include "tollgate.credentials" . | nindent 4 }}
  verbs: [get, watch, patch]
{{- end }}

{{- define "tollgate.rules.secretReader" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, watch]
{{- end }}

{{- define "tollgate.rules.keyWriter" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, get, patch, watch]
{{- end }}

{{/* The Lease; in the operator's namespace. `create` cannot be bound to a name. */}}
{{- define "tollgate.rules.lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [tollgate-operator]
  verbs: [get, update]
{{- end }}

{{/* The operator as the subject of a binding. */}}
{{- define "tollgate.operatorSubject" -}}
- kind: ServiceAccount
  name: {{ include "tollgate.operatorServiceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/*
A Role of the operator's and its binding. Takes (dict "root" $ "name" .. "namespace" .. "rules" "text").
*/}}
{{- define "tollgate.role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- include "tollgate.metadata" (dict "root" .root "component" "operator" "name" .name "namespace" .namespace) | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
{{ include "tollgate.roleBinding" (dict "root" .root "name" .name "namespace" .namespace "kind" "Role" "role" .name) }}
{{- end }}

{{/* Binds a Role or ClusterRole to the operator in a namespace. Takes (dict "root" $ "name" .. "namespace" .. "kind" .. "role" ..). */}}
{{- define "tollgate.roleBinding" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "tollgate.metadata" (dict "root" .root "component" "operator" "name" .name "namespace" .namespace) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .role }}
subjects:
  {{- include "tollgate.operatorSubject" .root | nindent 2 }}
{{- end }}

{{/* A ClusterRole of the operator's and, with "bind", its cluster-wide binding. Takes (dict "root" $ "name" .. "rules" "text" "bind" bool). */}}
{{- define "tollgate.clusterRole" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  {{- include "tollgate.metadata" (dict "root" .root "component" "operator" "name" .name "namespace" "") | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
{{- if .bind }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  {{- include "tollgate.metadata" (dict "root" .root "component" "operator" "name" .name "namespace" "") | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
  {{- include "tollgate.operatorSubject" .root | nindent 2 }}
{{- end }}
{{- end }}
