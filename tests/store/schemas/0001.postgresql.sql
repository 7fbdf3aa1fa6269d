SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.artifacts (
    digest character varying(64) NOT NULL,
    kind character varying(255) NOT NULL,
    size_bytes bigint NOT NULL,
    folder text,
    facts json NOT NULL,
    time_created timestamp with time zone NOT NULL
);
CREATE TABLE public.deployments (
    gateway character varying(255) NOT NULL,
    url character varying(255) NOT NULL,
    configuration json NOT NULL,
    wanted_state character varying(255) NOT NULL,
    wanted_group_id character varying(255) NOT NULL,
    update_type character varying(255),
    group_id character varying(255),
    served_configuration json,
    previous_group_id character varying(255),
    work_request_id character varying(255),
    model_states json NOT NULL,
    project_id character varying(255) NOT NULL,
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.group_members (
    group_id character varying(255) NOT NULL,
    "position" integer NOT NULL,
    inference_key character varying(255),
    model_id character varying(255) NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.groups (
    type character varying(255) NOT NULL,
    base_model_id character varying(255),
    custom_metadata json NOT NULL,
    history_id character varying(255),
    version_id integer NOT NULL,
    version_label character varying(255),
    create_type character varying(255) NOT NULL,
    source_group_id character varying(255),
    artifact_digest character varying(64),
    project_id character varying(255) NOT NULL,
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.model_version_sets (
    latest_version integer NOT NULL,
    project_id character varying(255) NOT NULL,
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.models (
    artifact_digest character varying(64),
    custom_metadata json NOT NULL,
    defined_metadata json NOT NULL,
    version_set_id character varying(255),
    version_id integer,
    version_label character varying(255),
    project_id character varying(255) NOT NULL,
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.projects (
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.retry_tokens (
    token character varying(255) NOT NULL,
    body_sha256 character varying(64) NOT NULL,
    status integer NOT NULL,
    headers json NOT NULL,
    body text NOT NULL,
    time_created timestamp with time zone NOT NULL
);
CREATE TABLE public.version_histories (
    latest_group_id character varying(255),
    latest_version integer NOT NULL,
    project_id character varying(255) NOT NULL,
    id character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    display_name character varying(255) NOT NULL,
    description text,
    lifecycle_state character varying(255) NOT NULL,
    lifecycle_details text NOT NULL,
    created_by character varying(255) NOT NULL,
    time_created timestamp with time zone NOT NULL,
    time_updated timestamp with time zone NOT NULL,
    revision integer NOT NULL,
    freeform_tags json NOT NULL,
    defined_tags json NOT NULL,
    unused json NOT NULL
);
CREATE TABLE public.work_request_lines (
    number integer NOT NULL,
    work_request_id character varying(255) NOT NULL,
    code character varying(255),
    message text NOT NULL,
    "time" timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.work_request_lines_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.work_request_lines_number_seq OWNED BY public.work_request_lines.number;
CREATE TABLE public.work_requests (
    id character varying(255) NOT NULL,
    operation_type character varying(255) NOT NULL,
    status character varying(255) NOT NULL,
    compartment_id character varying(255) NOT NULL,
    resource_id character varying(255) NOT NULL,
    entity_type character varying(255) NOT NULL,
    action_type character varying(255) NOT NULL,
    percent_complete double precision NOT NULL,
    time_accepted timestamp with time zone NOT NULL,
    time_started timestamp with time zone,
    time_finished timestamp with time zone,
    revision integer NOT NULL
);
ALTER TABLE ONLY public.work_request_lines ALTER COLUMN number SET DEFAULT nextval('public.work_request_lines_number_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0001');
INSERT INTO public.artifacts VALUES ('abababababababababababababababababababababababababababababababab', 'BASE', 1099511627776, NULL, '{"dtype": "f"}', '2026-11-25 08:30:00.123+00');
INSERT INTO public.deployments VALUES ('gateway', 'http://127.0.0.1:8000', '{"deploymentType": "MODEL_GROUP"}', 'ACTIVE', 'ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001', NULL, 'ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001', NULL, NULL, NULL, '{"ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001": {"state": "SUCCESS", "message": ""}}', 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodeldeployment.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datasciencemodeldeployment Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.group_members VALUES ('ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001', 0, 'base', 'ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001', '{}');
INSERT INTO public.group_members VALUES ('ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001', 1, 'a', 'ocid1.datasciencemodel.oc1.local.00000000000000000000000000000002', '{}');
INSERT INTO public.groups VALUES ('STACKED', 'ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001', '[{"key": "k", "value": "v"}]', 'ocid1.datasciencemodelgroupversionhistory.oc1.local.00000000000000000000000000000001', 1, NULL, 'CREATE', NULL, NULL, 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datasciencemodelgroup Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.model_version_sets VALUES (1, 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodelversionset.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datasciencemodelversionset Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.models VALUES ('abababababababababababababababababababababababababababababababab', '[]', '[]', NULL, NULL, NULL, 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datasciencemodel Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.models VALUES (NULL, '[]', '[]', 'ocid1.datasciencemodelversionset.oc1.local.00000000000000000000000000000001', 1, 'a', 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodel.oc1.local.00000000000000000000000000000002', 'ocid1.compartment.oc1..comp', 'datasciencemodel Ü 2', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.projects VALUES ('ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datascienceproject Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.retry_tokens VALUES ('t', 'abababababababababababababababababababababababababababababababab', 200, '{}', '{}', '2026-11-25 08:30:00.123+00');
INSERT INTO public.version_histories VALUES (NULL, 1, 'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001', 'ocid1.datasciencemodelgroupversionhistory.oc1.local.00000000000000000000000000000001', 'ocid1.compartment.oc1..comp', 'datasciencemodelgroupversionhistory Ü 1', NULL, 'ACTIVE', '', 'local', '2026-11-25 08:30:00.123+00', '2026-11-25 08:30:00.123+00', 1, '{"team": "it''s"}', '{"space": {"key": 1}}', '{"category": "USER"}');
INSERT INTO public.work_request_lines VALUES (1, 'ocid1.datascienceworkrequest.oc1.local.1', NULL, 'line
of two', '2026-11-25 08:30:00.123+00');
INSERT INTO public.work_requests VALUES ('ocid1.datascienceworkrequest.oc1.local.1', 'MODEL_DEPLOYMENT_CREATE', 'SUCCEEDED', 'ocid1.compartment.oc1..comp', 'ocid1.datasciencemodeldeployment.oc1.local.00000000000000000000000000000001', 'deployments', 'CREATED', 100, '2026-11-25 08:30:00.123+00', NULL, NULL, 1);
SELECT pg_catalog.setval('public.work_request_lines_number_seq', 1, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT pk_artifacts PRIMARY KEY (digest);
ALTER TABLE ONLY public.deployments
    ADD CONSTRAINT pk_deployments PRIMARY KEY (id);
ALTER TABLE ONLY public.group_members
    ADD CONSTRAINT pk_group_members PRIMARY KEY (group_id, "position");
ALTER TABLE ONLY public.groups
    ADD CONSTRAINT pk_groups PRIMARY KEY (id);
ALTER TABLE ONLY public.model_version_sets
    ADD CONSTRAINT pk_model_version_sets PRIMARY KEY (id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (id);
ALTER TABLE ONLY public.projects
    ADD CONSTRAINT pk_projects PRIMARY KEY (id);
ALTER TABLE ONLY public.retry_tokens
    ADD CONSTRAINT pk_retry_tokens PRIMARY KEY (token);
ALTER TABLE ONLY public.version_histories
    ADD CONSTRAINT pk_version_histories PRIMARY KEY (id);
ALTER TABLE ONLY public.work_request_lines
    ADD CONSTRAINT pk_work_request_lines PRIMARY KEY (number);
ALTER TABLE ONLY public.work_requests
    ADD CONSTRAINT pk_work_requests PRIMARY KEY (id);
ALTER TABLE ONLY public.group_members
    ADD CONSTRAINT uq_group_members_group_id_inference_key UNIQUE (group_id, inference_key);
ALTER TABLE ONLY public.groups
    ADD CONSTRAINT uq_groups_history_id_version_id UNIQUE (history_id, version_id);
CREATE INDEX ix_deployments_compartment_id ON public.deployments USING btree (compartment_id);
CREATE INDEX ix_deployments_gateway ON public.deployments USING btree (gateway);
CREATE INDEX ix_deployments_group_id ON public.deployments USING btree (group_id);
CREATE INDEX ix_deployments_project_id ON public.deployments USING btree (project_id);
CREATE INDEX ix_deployments_time_created ON public.deployments USING btree (time_created);
CREATE INDEX ix_deployments_wanted_group_id ON public.deployments USING btree (wanted_group_id);
CREATE INDEX ix_group_members_model_id ON public.group_members USING btree (model_id);
CREATE INDEX ix_groups_base_model_id ON public.groups USING btree (base_model_id);
CREATE INDEX ix_groups_compartment_id ON public.groups USING btree (compartment_id);
CREATE INDEX ix_groups_project_id ON public.groups USING btree (project_id);
CREATE INDEX ix_groups_time_created ON public.groups USING btree (time_created);
CREATE INDEX ix_model_version_sets_compartment_id ON public.model_version_sets USING btree (compartment_id);
CREATE INDEX ix_model_version_sets_project_id ON public.model_version_sets USING btree (project_id);
CREATE INDEX ix_model_version_sets_time_created ON public.model_version_sets USING btree (time_created);
CREATE INDEX ix_models_artifact_digest ON public.models USING btree (artifact_digest);
CREATE INDEX ix_models_compartment_id ON public.models USING btree (compartment_id);
CREATE INDEX ix_models_project_id ON public.models USING btree (project_id);
CREATE INDEX ix_models_time_created ON public.models USING btree (time_created);
CREATE INDEX ix_models_version_set_id ON public.models USING btree (version_set_id);
CREATE INDEX ix_projects_compartment_id ON public.projects USING btree (compartment_id);
CREATE INDEX ix_projects_time_created ON public.projects USING btree (time_created);
CREATE INDEX ix_retry_tokens_time_created ON public.retry_tokens USING btree (time_created);
CREATE INDEX ix_version_histories_compartment_id ON public.version_histories USING btree (compartment_id);
CREATE INDEX ix_version_histories_project_id ON public.version_histories USING btree (project_id);
CREATE INDEX ix_version_histories_time_created ON public.version_histories USING btree (time_created);
CREATE INDEX ix_work_request_lines_work_request_id ON public.work_request_lines USING btree (work_request_id);
CREATE INDEX ix_work_requests_compartment_id ON public.work_requests USING btree (compartment_id);
CREATE INDEX ix_work_requests_resource_id ON public.work_requests USING btree (resource_id);
CREATE INDEX ix_work_requests_time_accepted ON public.work_requests USING btree (time_accepted);
ALTER TABLE ONLY public.deployments
    ADD CONSTRAINT fk_deployments_group_id FOREIGN KEY (group_id) REFERENCES public.groups(id);
ALTER TABLE ONLY public.deployments
    ADD CONSTRAINT fk_deployments_previous_group_id FOREIGN KEY (previous_group_id) REFERENCES public.groups(id);
ALTER TABLE ONLY public.deployments
    ADD CONSTRAINT fk_deployments_wanted_group_id FOREIGN KEY (wanted_group_id) REFERENCES public.groups(id);
ALTER TABLE ONLY public.group_members
    ADD CONSTRAINT fk_group_members_group_id FOREIGN KEY (group_id) REFERENCES public.groups(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.group_members
    ADD CONSTRAINT fk_group_members_model_id FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.groups
    ADD CONSTRAINT fk_groups_artifact_digest FOREIGN KEY (artifact_digest) REFERENCES public.artifacts(digest);
ALTER TABLE ONLY public.groups
    ADD CONSTRAINT fk_groups_history_id FOREIGN KEY (history_id) REFERENCES public.version_histories(id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT fk_models_artifact_digest FOREIGN KEY (artifact_digest) REFERENCES public.artifacts(digest);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT fk_models_version_set_id FOREIGN KEY (version_set_id) REFERENCES public.model_version_sets(id);
ALTER TABLE ONLY public.work_request_lines
    ADD CONSTRAINT fk_work_request_lines_work_request_id FOREIGN KEY (work_request_id) REFERENCES public.work_requests(id) ON DELETE CASCADE;
